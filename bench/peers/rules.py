"""What the hand-written routers work out in Python: acceptance hours, and the windows that caps count over."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

NOBODY = UUID(int=0)
"""Stands for the offer where a cap is the buyer's own, over all its offers."""
WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


class Limit(NamedTuple):
    """A cap that is set: what its counter is keyed by, and how much it allows."""

    buyer_id: UUID
    offer_id: UUID
    kind: str
    window_start: datetime
    cap: int

    @property
    def counter(self) -> tuple[UUID, UUID, str, datetime]:
        return self[:4]


def is_open(hours: Any, timezone: str, at: datetime) -> bool:
    """Whether decoded acceptance hours, of the forms that the bench's world has, hold the instant."""
    if hours is None:
        return True
    local = at.astimezone(ZoneInfo(hours.get("timezone", timezone)))
    now = local.strftime("%H:%M")
    today, yesterday = (_spans(hours, local - timedelta(days=ago)) for ago in (0, 1))
    return any(opens <= now < closes if closes > opens else opens <= now for opens, closes in today) or any(
        closes < opens and now < closes for opens, closes in yesterday
    )


def _spans(hours: Any, day: datetime) -> list[list[str]]:
    dates = hours.get("dates", {})
    found: list[list[str]] = dates.get(day.date().isoformat(), hours["weekly"].get(WEEKDAYS[day.weekday()], []))
    return found


def limits(
    buyer_id: UUID,
    offer_id: UUID,
    timezone: str,
    at: datetime,
    *,
    shared: tuple[int | None, int | None],
    own: tuple[int | None, int | None],
) -> Iterator[Limit]:
    """The caps that bind a buyer's leads of an offer, in the order in which every caller locks their counters.

    `shared` are the buyer's, `own` the enrollment's, hourly and daily.
    """
    hour = at.replace(minute=0, second=0, microsecond=0)
    day = at.astimezone(ZoneInfo(timezone)).replace(hour=0, minute=0, second=0, microsecond=0).astimezone(UTC)
    for holder, (hourly, daily) in ((NOBODY, shared), (offer_id, own)):
        if daily is not None:
            yield Limit(buyer_id, holder, "day", day, daily)
        if hourly is not None:
            yield Limit(buyer_id, holder, "hour", hour, hourly)
