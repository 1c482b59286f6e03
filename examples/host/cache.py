"""The host's own cache."""

from uuid import UUID

accepted: dict[UUID, int] = {}
