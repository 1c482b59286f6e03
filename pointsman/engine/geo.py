"""Postal codes and cities in the one form in which leads and areas are compared."""

import unicodedata
from functools import lru_cache

UNICODE_VERSION = unicodedata.unidata_version

_REMEMBERED = 1 << 14


@lru_cache(_REMEMBERED)
def postal_code(text: str | None) -> str | None:
    """Upper-case without any white space (as `str.split()` sees it); None where nothing is left."""
    return "".join(text.split()).upper() or None if text else None


@lru_cache(_REMEMBERED)
def city(text: str | None) -> str | None:
    """NFKC, case-folded, trimmed, inner white space collapsed to one blank; None where nothing is left."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()) or None if text else None
