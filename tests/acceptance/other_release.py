"""A `router_process` that passes for another release: `other_release.py NUMBER SCHEMA SUFFIX`.

Its decisions bear that number, it needs that schema version, and the SQL functions whose names end in a number are
called with the suffix, as those of a release that has changed them are.
"""

from __future__ import annotations

import asyncio
import re
import sys

from pointsman import claim, store
from tests.acceptance import router_process


def become(number: str, schema: int, suffix: str) -> None:
    """Make this process's package the other release."""
    read = store.read_queries

    def read_renamed(text: str) -> dict[str, str]:
        return read(re.sub(r"(pointsman\.\w+_\d+)\(", rf"\1{suffix}(", text))

    store.read_queries = read_renamed
    store.SCHEMA_VERSION = schema
    claim.VERSIONS = (number, *claim.VERSIONS[1:])


if __name__ == "__main__":
    become(sys.argv[1], int(sys.argv[2]), sys.argv[3])
    asyncio.run(router_process.main())
