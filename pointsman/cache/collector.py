"""Python's garbage collector beside a large cache, every row of which it would walk each time, to find nothing.

The indexes have no cycles, so that what is replaced goes by itself, frozen or not.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_THRESHOLDS = (20_000, 20, 50)


@contextmanager
def paused() -> Iterator[None]:
    """Let nothing be collected while much is built that stays; a load took three times as long with it."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            # what was built goes among the old at once, or the next small collection would walk all of it
            is_settled = gc.get_freeze_count() > 0
            gc.freeze()
            if not is_settled:
                gc.unfreeze()
            gc.enable()


def settle() -> None:
    """Collect once, and keep what is left out of the collector's way from now on, which then also comes less often.

    It concerns the whole process, so it is for whoever owns that: the service does it, an embedding host may.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
