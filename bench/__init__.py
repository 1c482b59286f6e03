"""Measurements: `python -m bench` for the whole path on a real PostgreSQL, `pytest bench` for the parts in memory."""
