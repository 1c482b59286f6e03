"""Settings, keys, and what is said about those that cannot be used."""

from __future__ import annotations

import hashlib

import pytest

from pointsman.settings import ApiKey, Scope, SettingsInvalid, check_names, read_settings

DIGEST = "ab" * 32


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", "LISTEN_URL", "PREPARED_STATEMENTS", "API_KEYS", "HOST", "PORT"):
        monkeypatch.delenv(f"POINTSMAN_{name}", raising=False)


def test_nothing_set_means_the_embedded_database_on_loopback() -> None:
    settings = read_settings()
    assert (
        settings.dsn,
        settings.router_options,
        settings.api_keys,
        settings.host,
        settings.port,
    ) == ("", {"listen_dsn": None, "prepared_statements": True}, (), "127.0.0.1", 8080)


def test_an_empty_variable_is_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POINTSMAN_PORT", "")
    monkeypatch.setenv("POINTSMAN_DATABASE_URL", "")
    assert read_settings().port == 8080


def test_every_setting_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POINTSMAN_DATABASE_URL", "postgresql://u:secret@db/leads")
    monkeypatch.setenv("POINTSMAN_LISTEN_URL", "postgresql://u:secret@direct/leads")
    monkeypatch.setenv("POINTSMAN_PREPARED_STATEMENTS", "false")
    monkeypatch.setenv("POINTSMAN_API_KEYS", f"intake:route:{DIGEST}, reports:read:{DIGEST.upper()}")
    monkeypatch.setenv("POINTSMAN_HOST", "0.0.0.0")
    monkeypatch.setenv("POINTSMAN_PORT", "9000")
    settings = read_settings()
    assert settings.dsn == "postgresql://u:secret@db/leads"
    assert settings.router_options == {
        "listen_dsn": "postgresql://u:secret@direct/leads",
        "prepared_statements": False,
    }
    assert [(key.name, key.scope) for key in settings.api_keys] == [("intake", Scope.ROUTE), ("reports", Scope.READ)]
    assert {bytes.fromhex(DIGEST)} == {key.digest for key in settings.api_keys}
    assert (settings.host, settings.port) == ("0.0.0.0", 9000)


def test_neither_passwords_nor_digests_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POINTSMAN_DATABASE_URL", "postgresql://u:secret@db/leads")
    monkeypatch.setenv("POINTSMAN_API_KEYS", f"intake:route:{DIGEST}")
    shown = repr(read_settings())
    assert "secret" not in shown
    assert DIGEST not in shown


@pytest.mark.parametrize(
    ("variable", "nearest"),
    [
        ("POINTSMAN_DATABSE_URL", "POINTSMAN_DATABASE_URL"),
        ("POINTSMAN_APIKEYS", "POINTSMAN_API_KEYS"),
        ("POINTSMAN_LISTEN", "POINTSMAN_LISTEN_URL"),
    ],
)
def test_an_unknown_variable_is_named_with_the_nearest_setting(variable: str, nearest: str) -> None:
    with pytest.raises(SettingsInvalid, match=f"`{variable}` is no setting; did you mean `{nearest}`"):
        check_names(["PATH", variable])


def test_variables_of_the_suite_and_of_compose_are_left_alone() -> None:
    check_names(["POINTSMAN_TEST_DATABASE_URL", "POINTSMAN_POSTGRES_PORT", "POINTSMAN_PORT", "HOME"])


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("PORT", "eighty", "`POINTSMAN_PORT`: .*integer"),
        ("PORT", "70000", "`POINTSMAN_PORT`: .*65535"),
        ("API_KEYS", f"intake:write:{DIGEST}", "`POINTSMAN_API_KEYS`: the key `intake` is not written as"),
        ("API_KEYS", "intake:route:abc", "`POINTSMAN_API_KEYS`: the key `intake` is not written as"),
        ("API_KEYS", f"a:route:{DIGEST},a:read:{DIGEST}", "`POINTSMAN_API_KEYS`: two keys have the same name"),
    ],
)
def test_a_setting_that_cannot_be_read_is_named_without_its_value(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, complaint: str
) -> None:
    monkeypatch.setenv(f"POINTSMAN_{name}", value)
    with pytest.raises(SettingsInvalid, match=complaint) as raised:
        read_settings()
    assert DIGEST not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_new_key_is_known_by_its_digest_and_reads_back() -> None:
    key, secret = ApiKey.new("intake", Scope.ROUTE)
    assert hashlib.sha256(secret.encode()).digest() == key.digest
    assert secret not in str(key)
    assert key == ApiKey.read(str(key))


@pytest.mark.parametrize("name", ["", "a:b", "a,b", "a b"])
def test_a_name_that_the_settings_could_not_hold_is_refused(name: str) -> None:
    with pytest.raises(SettingsInvalid):
        ApiKey.new(name, Scope.READ)


def test_route_includes_read_and_not_the_other_way_round() -> None:
    assert Scope.ROUTE.allows(Scope.READ)
    assert Scope.ROUTE.allows(Scope.ROUTE)
    assert Scope.READ.allows(Scope.READ)
    assert not Scope.READ.allows(Scope.ROUTE)
