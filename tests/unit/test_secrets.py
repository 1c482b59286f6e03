"""No file of the project holds a secret: keys of ours or of clouds, private keys, passwords in addresses."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from pointsman.settings import ApiKey, Scope

ROOT = Path(__file__).resolve().parents[2]

SECRETS = {
    "a key of the service": r"\bpm_[\w-]{43}(?![\w-])",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY",
    "a key of AWS": r"\b(AKIA|ASIA)[0-9A-Z]{16}\b",
    "a token of GitHub": r"\b(gh[pousr]_[0-9A-Za-z]{36}|github_pat_\w{40})",
    "a token of Slack": r"\bxox[abprs]-[0-9A-Za-z-]{10}",
    "a password in an address": r"\b\w+(?:\+\w+)?://[^\s:/@\"'`]+:(?P<password>[^\s@/\"'`]+)@",
}
NO_SECRETS = re.compile(r"\$?\{.*|.*%.*|password|pointsman|.{0,7}")
"""Passwords that are placeholders, or too short to be any."""


def secrets_in(text: str) -> list[str]:
    """What kinds of secret a text holds."""
    return [
        kind
        for kind, pattern in SECRETS.items()
        for found in re.finditer(pattern, text)
        if "password" not in found.groupdict() or not NO_SECRETS.fullmatch(found["password"])
    ]


def tracked() -> list[Path]:
    """Every file that git keeps; in a copy without it, those of the folders that it would keep."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode == 0:
        return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]
    return [path for folder in ("pointsman", "tests", "docs", "examples") for path in (ROOT / folder).rglob("*.*")]


def test_no_file_holds_a_secret() -> None:
    found = {str(path): secrets_in(path.read_text("utf-8", errors="replace")) for path in tracked()}
    assert {path: kinds for path, kinds in found.items() if kinds} == {}


@pytest.mark.parametrize(
    "text",
    [
        ApiKey.new("intake", Scope.ROUTE)[1],
        "-----BEGIN RSA" + " PRIVATE KEY-----",
        "AKIA" + "Z" * 16,
        "ghp_" + "a1" * 18,
        "postgresql://app:" + "Tr0ub4dor@db/leads",
    ],
    ids=range(5),  # the first is another one in each process
)
def test_secrets_are_found(text: str) -> None:
    assert len(secrets_in(f'x = "{text}"')) == 1


@pytest.mark.parametrize(
    "text", ["postgresql://...", "postgresql://user:password@host:5432/database", "https://a.b/c:d"]
)
def test_placeholders_are_none(text: str) -> None:
    assert secrets_in(text) == []
