"""The pure part: `decide` and what it is made of. No I/O, no clock, no randomness, nothing kept but memos."""

__version__ = "0.1.0"
"""The release, recorded with every decision that it makes."""
