"""SQLAlchemy models of the host's tables (`pip install "pointsman[sqlalchemy]"`), for a host that has none of its own.

`pointsman migrate --with-host-tables` makes the tables, with checks and constraints that no model repeats. A host with
models keeps them: nothing here is needed to route.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import DateTime, ForeignKey, Numeric, Text, Uuid, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

_TRUE, _NOW = text("true"), text("now()")


class HostTable(DeclarativeBase):
    """What the tables have in common: types, and metadata of their own."""

    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy reads it from the class
        UUID: Uuid(),
        str: Text(),
        datetime: DateTime(timezone=True),
        Decimal: Numeric(14, 2),
        dict[str, Any]: JSONB(none_as_null=True),
    }


class Offer(HostTable):
    """What a lead answers to."""

    __tablename__ = "offers"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    name: Mapped[str] = mapped_column(server_default="")
    vertical_id: Mapped[UUID]
    market_id: Mapped[UUID | None]
    is_active: Mapped[bool] = mapped_column(server_default=_TRUE)


class Buyer(HostTable):
    """Who may receive leads."""

    __tablename__ = "buyers"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    name: Mapped[str] = mapped_column(server_default="")
    status: Mapped[str] = mapped_column(server_default="active")
    timezone: Mapped[str] = mapped_column(server_default="UTC")
    acceptance_hours: Mapped[dict[str, Any] | None]
    balance: Mapped[Decimal] = mapped_column(server_default="0")
    min_balance: Mapped[Decimal | None]
    sla_response_seconds: Mapped[int | None]
    hourly_cap: Mapped[int | None]
    daily_cap: Mapped[int | None]


class BuyerOffer(HostTable):
    """An enrollment: a buyer takes part in an offer."""

    __tablename__ = "buyer_offers"

    buyer_id: Mapped[UUID] = mapped_column(ForeignKey("buyers.id", ondelete="cascade"), primary_key=True)
    offer_id: Mapped[UUID] = mapped_column(ForeignKey("offers.id", ondelete="cascade"), primary_key=True)
    is_active: Mapped[bool] = mapped_column(server_default=_TRUE)
    priority_rank: Mapped[int] = mapped_column(server_default="100")
    weight: Mapped[int] = mapped_column(server_default="1")
    hourly_cap: Mapped[int | None]
    daily_cap: Mapped[int | None]
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)


class BuyerServiceArea(HostTable):
    """Where a buyer takes leads; `value` is None exactly when `scope` is `market`."""

    __tablename__ = "buyer_service_areas"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    buyer_id: Mapped[UUID] = mapped_column(ForeignKey("buyers.id", ondelete="cascade"))
    market_id: Mapped[UUID]
    scope: Mapped[str]
    value: Mapped[str | None]
    is_active: Mapped[bool] = mapped_column(server_default=_TRUE)


class OfferExclusivity(HostTable):
    """One buyer holds an offer in a scope, from `valid_from` until before `valid_to`."""

    __tablename__ = "offer_exclusivities"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    offer_id: Mapped[UUID] = mapped_column(ForeignKey("offers.id", ondelete="cascade"))
    buyer_id: Mapped[UUID] = mapped_column(ForeignKey("buyers.id", ondelete="cascade"))
    market_id: Mapped[UUID | None]
    scope: Mapped[str]
    value: Mapped[str | None]
    valid_from: Mapped[datetime | None]
    valid_to: Mapped[datetime | None]
    is_active: Mapped[bool] = mapped_column(server_default=_TRUE)


class RoutingPolicy(HostTable):
    """The rules for a set of leads."""

    __tablename__ = "routing_policies"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    name: Mapped[str] = mapped_column(server_default="")
    offer_id: Mapped[UUID | None] = mapped_column(ForeignKey("offers.id"))
    vertical_id: Mapped[UUID | None]
    market_id: Mapped[UUID | None]
    version: Mapped[int] = mapped_column(server_default="1")
    is_active: Mapped[bool] = mapped_column(server_default=_TRUE)
    rules: Mapped[dict[str, Any]]


class Lead(HostTable):
    """What is routed, once its status is `validated`; the router writes `status`, `buyer_id` and `routed_at`."""

    __tablename__ = "leads"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    offer_id: Mapped[UUID | None] = mapped_column(ForeignKey("offers.id"))
    vertical_id: Mapped[UUID | None]
    market_id: Mapped[UUID | None]
    postal_code: Mapped[str | None]
    city: Mapped[str | None]
    status: Mapped[str] = mapped_column(server_default="new")
    buyer_id: Mapped[UUID | None] = mapped_column(ForeignKey("buyers.id"))
    routed_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)
