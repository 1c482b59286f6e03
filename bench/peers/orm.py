"""SQLAlchemy 2 with its async ORM: the router that a good FastAPI developer would write."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from sqlalchemy import ForeignKey, and_, or_, select, tuple_
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, contains_eager, mapped_column, relationship
from sqlalchemy.types import DateTime

from bench.peers import CONNECTIONS, TRIES
from bench.peers.rules import Limit, is_open, limits

DEADLOCK = "40P01"


class Base(DeclarativeBase):
    """The host's tables, as far as a router reads them."""

    type_annotation_map = {dict[str, Any]: JSONB, datetime: DateTime(timezone=True)}  # noqa: RUF012  (SQLAlchemy's form)


class Offer(Base):
    __tablename__ = "offers"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    vertical_id: Mapped[UUID]
    is_active: Mapped[bool]


class Buyer(Base):
    __tablename__ = "buyers"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    status: Mapped[str]
    timezone: Mapped[str]
    acceptance_hours: Mapped[dict[str, Any] | None]
    balance: Mapped[Decimal]
    min_balance: Mapped[Decimal | None]
    hourly_cap: Mapped[int | None]
    daily_cap: Mapped[int | None]


class Enrollment(Base):
    __tablename__ = "buyer_offers"

    buyer_id: Mapped[UUID] = mapped_column(ForeignKey("buyers.id"), primary_key=True)
    offer_id: Mapped[UUID] = mapped_column(ForeignKey("offers.id"), primary_key=True)
    is_active: Mapped[bool]
    priority_rank: Mapped[int]
    weight: Mapped[int]
    hourly_cap: Mapped[int | None]
    daily_cap: Mapped[int | None]
    buyer: Mapped[Buyer] = relationship()

    def limits(self, at: datetime) -> list[Limit]:
        """The caps that bind this enrollment's leads."""
        buyer = self.buyer
        shared, own = (buyer.hourly_cap, buyer.daily_cap), (self.hourly_cap, self.daily_cap)
        return list(limits(buyer.id, self.offer_id, buyer.timezone, at, shared=shared, own=own))


class ServiceArea(Base):
    __tablename__ = "buyer_service_areas"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    buyer_id: Mapped[UUID] = mapped_column(ForeignKey("buyers.id"))
    market_id: Mapped[UUID]
    scope: Mapped[str]
    value: Mapped[str | None]
    is_active: Mapped[bool]


class Policy(Base):
    __tablename__ = "routing_policies"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    offer_id: Mapped[UUID | None]
    vertical_id: Mapped[UUID | None]
    market_id: Mapped[UUID | None]
    version: Mapped[int]
    is_active: Mapped[bool]
    rules: Mapped[dict[str, Any]]


class Lead(Base):
    __tablename__ = "leads"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    offer_id: Mapped[UUID | None]
    vertical_id: Mapped[UUID | None]
    market_id: Mapped[UUID | None]
    postal_code: Mapped[str | None]
    city: Mapped[str | None]
    status: Mapped[str]
    buyer_id: Mapped[UUID | None] = mapped_column(ForeignKey("buyers.id"))
    routed_at: Mapped[datetime | None]


class Usage(Base):
    __tablename__ = "usage"
    __table_args__ = {"schema": "peers"}  # noqa: RUF012  (SQLAlchemy's form)

    buyer_id: Mapped[UUID] = mapped_column(primary_key=True)
    offer_id: Mapped[UUID] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(primary_key=True)
    window_start: Mapped[datetime] = mapped_column(primary_key=True)
    used: Mapped[int]


class _Full(Exception):
    """A cap filled between the look at it and its lock."""


class Orm:
    """A session and a transaction a lead, rows as objects, locks by `with_for_update`."""

    def __init__(self, sessions: async_sessionmaker[AsyncSession]) -> None:
        self._sessions = sessions

    async def route(self, lead_id: UUID) -> object:
        """The buyer's id, None if nobody takes the lead."""
        for _ in range(TRIES):
            try:
                async with self._sessions.begin() as session:
                    return await _decide(session, lead_id)
            except _Full:
                continue
            except DBAPIError as error:
                if getattr(error.orig, "sqlstate", None) != DEADLOCK:
                    raise
        raise TimeoutError(f"the caps for lead {lead_id} did not hold still")


async def _decide(session: AsyncSession, lead_id: UUID) -> UUID | None:
    lead = await session.get(Lead, lead_id, with_for_update={"key_share": True})
    if lead is None or lead.status != "validated" or lead.buyer_id is not None:
        return lead and lead.buyer_id
    policy = await _policy(session, lead)
    offer = await session.get(Offer, lead.offer_id)
    if policy is None or policy.rules["strategy"]["kind"] != "priority":
        return None
    if offer is None or not offer.is_active or offer.vertical_id != lead.vertical_id:
        return None
    at = datetime.now(UTC)
    candidates = [
        enrollment
        for enrollment in await _candidates(session, lead)
        if is_open(enrollment.buyer.acceptance_hours, enrollment.buyer.timezone, at)
    ]
    used = await _used(session, [limit for enrollment in candidates for limit in enrollment.limits(at)])
    for enrollment in candidates:
        bound = enrollment.limits(at)
        if any(used.get(limit.counter, 0) >= limit.cap for limit in bound):
            continue
        await _count(session, bound)
        lead.status, lead.buyer_id, lead.routed_at = "routed", enrollment.buyer_id, at
        return enrollment.buyer_id
    return None


async def _policy(session: AsyncSession, lead: Lead) -> Policy | None:
    query = (
        select(Policy)
        .where(
            Policy.is_active,
            or_(Policy.offer_id.is_(None), Policy.offer_id == lead.offer_id),
            or_(Policy.vertical_id.is_(None), Policy.vertical_id == lead.vertical_id),
            or_(Policy.market_id.is_(None), Policy.market_id == lead.market_id),
        )
        .order_by(
            Policy.offer_id.is_(None),
            Policy.vertical_id.is_(None),
            Policy.market_id.is_(None),
            Policy.version.desc(),
            Policy.id,
        )
        .limit(1)
    )
    return (await session.scalars(query)).first()


async def _candidates(session: AsyncSession, lead: Lead) -> Sequence[Enrollment]:
    covers = select(ServiceArea.buyer_id).where(
        ServiceArea.is_active,
        ServiceArea.market_id == lead.market_id,
        or_(
            and_(ServiceArea.scope == "postal_code", ServiceArea.value == lead.postal_code),
            and_(ServiceArea.scope == "city", ServiceArea.value == lead.city),
            ServiceArea.scope == "market",
        ),
    )
    query = (
        select(Enrollment)
        .join(Enrollment.buyer)
        .options(contains_eager(Enrollment.buyer))
        .where(
            Enrollment.offer_id == lead.offer_id,
            Enrollment.is_active,
            Buyer.status == "active",
            or_(Buyer.min_balance.is_(None), Buyer.balance >= Buyer.min_balance),
            Enrollment.buyer_id.in_(covers),
        )
        .order_by(Enrollment.priority_rank, Enrollment.weight.desc(), Enrollment.buyer_id)
    )
    return (await session.scalars(query)).all()


async def _used(session: AsyncSession, bound: Iterable[Limit]) -> dict[tuple[UUID, UUID, str, datetime], int]:
    keys = [limit.counter for limit in bound]
    if not keys:
        return {}
    key = tuple_(Usage.buyer_id, Usage.offer_id, Usage.kind, Usage.window_start)
    rows = (
        await session.execute(
            select(Usage.buyer_id, Usage.offer_id, Usage.kind, Usage.window_start, Usage.used).where(key.in_(keys))
        )
    ).all()
    return {(row[0], row[1], row[2], row[3]): row[4] for row in rows}


async def _count(session: AsyncSession, bound: Sequence[Limit]) -> None:
    """Make the counters that are not there, lock them in order, and count."""
    if not bound:
        return
    rows = [{"buyer_id": b, "offer_id": o, "kind": k, "window_start": s, "used": 0} for b, o, k, s, _ in bound]
    await session.execute(insert(Usage).values(rows).on_conflict_do_nothing())
    for limit in bound:
        usage = await session.get_one(Usage, limit.counter, with_for_update=True)
        if usage.used >= limit.cap:
            raise _Full
        usage.used += 1


@asynccontextmanager
async def orm(dsn: str) -> AsyncIterator[Orm]:
    """On an engine whose pool is as big as that of the other peers."""
    address = urlsplit(dsn)._replace(scheme="postgresql+asyncpg").geturl()
    engine = create_async_engine(address, pool_size=CONNECTIONS, max_overflow=0)
    try:
        yield Orm(async_sessionmaker(engine, expire_on_commit=False))
    finally:
        await engine.dispose()
