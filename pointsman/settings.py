"""The settings of the service and the command line: `POINTSMAN_*`, read only here."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from pointsman.errors import PointsmanError
from pointsman.logs import LogFormat, LogLevel

PREFIX = "POINTSMAN_"
NOT_SETTINGS = re.compile(r"POINTSMAN_(TEST_.*|POSTGRES_.*)")
"""Variables of the suite and of docker-compose.yml, which are none of ours."""

_KEY = re.compile(r"([A-Za-z0-9._-]+):(route|read):([0-9a-fA-F]{64})")
_NAME = re.compile(r"[A-Za-z0-9._-]+")


class SettingsInvalid(PointsmanError):
    """A setting cannot be used."""


class Scope(StrEnum):
    """What a key allows."""

    READ = "read"
    ROUTE = "route"

    def allows(self, wanted: Scope) -> bool:
        """Whether a key of this scope may do what needs `wanted`: routing includes reading."""
        return self is Scope.ROUTE or wanted is Scope.READ


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as the service knows it; `digest` is the SHA-256 of what its holder sends."""

    name: str
    scope: Scope
    digest: bytes = field(repr=False)

    @classmethod
    def read(cls, text: str) -> ApiKey:
        """The key written as `name:scope:sha256`; raises ValueError, which never repeats the digest."""
        match = _KEY.fullmatch(text.strip())
        if match is None:
            name = text.strip().partition(":")[0][:40]
            raise ValueError(f"the key `{name}` is not written as `name:scope:sha256`; `pointsman key new` makes one")
        return cls(match[1], Scope(match[2]), bytes.fromhex(match[3]))

    @classmethod
    def new(cls, name: str, scope: Scope) -> tuple[ApiKey, str]:
        """A new key, and the secret that its holder sends, which is kept nowhere."""
        if not _NAME.fullmatch(name):
            raise SettingsInvalid(f"`{name}` cannot name a key; use letters, digits, `.`, `_` and `-`")
        secret = f"pm_{secrets.token_urlsafe(32)}"
        return cls(name, scope, hashlib.sha256(secret.encode()).digest()), secret

    def __str__(self) -> str:
        return f"{self.name}:{self.scope}:{self.digest.hex()}"


class Settings(BaseSettings):
    """Without `database_url` it is the embedded PostgreSQL; `listen_url` is a direct address where that is a pooler.

    `prepared_statements` is false for a pooler in transaction mode that keeps none.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, extra="ignore", frozen=True, hide_input_in_errors=True
    )

    database_url: SecretStr = SecretStr("")
    listen_url: SecretStr = SecretStr("")
    prepared_statements: bool = True
    api_keys: Annotated[tuple[ApiKey, ...], NoDecode] = ()
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    log_format: LogFormat = LogFormat.CONSOLE
    log_level: LogLevel = LogLevel.INFO

    @field_validator("api_keys", mode="before")
    @classmethod
    def _read_keys(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        keys = tuple(ApiKey.read(text) for text in value.split(",") if text.strip())
        if len({key.name for key in keys}) < len(keys):
            raise ValueError("two keys have the same name")
        return keys

    @property
    def dsn(self) -> str:
        """The database's address with its password, empty for the embedded one; not for printing."""
        return self.database_url.get_secret_value()

    @property
    def router_options(self) -> dict[str, Any]:
        """What `Router.open` is told beside the database's address."""
        return {
            "listen_dsn": self.listen_url.get_secret_value() or None,
            "prepared_statements": self.prepared_statements,
        }


def read_settings() -> Settings:
    """The settings of this process; raises `SettingsInvalid` with one line that names the variable and no value."""
    check_names(os.environ)
    try:
        return Settings()
    except ValidationError as error:
        raise SettingsInvalid("; ".join(_complaints(error))) from None


def check_names(variables: Iterable[str]) -> None:
    """Raise `SettingsInvalid` for a `POINTSMAN_*` variable that is no setting, with the nearest one that is."""
    known = [PREFIX + name.upper() for name in Settings.model_fields]
    for variable in sorted(variables):
        name = variable.upper()
        if name.startswith(PREFIX) and name not in known and not NOT_SETTINGS.fullmatch(name):
            nearest = get_close_matches(name, known, n=1, cutoff=0)[0]
            raise SettingsInvalid(f"`{variable}` is no setting; did you mean `{nearest}`?")


def _complaints(error: ValidationError) -> Iterable[str]:
    for complaint in error.errors(include_input=False, include_url=False):
        variable = PREFIX + str(complaint["loc"][0]).upper()
        yield f"`{variable}`: {complaint['msg'].removeprefix('Value error, ')}"
