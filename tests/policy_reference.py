"""`python -m tests.policy_reference` writes the policy reference (`docs/policy-reference.md`) from the JSON Schema."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

Schema = dict[str, Any]

FILE = Path(__file__).resolve().parents[1] / "docs" / "policy-reference.md"
TYPES = {"integer": "an integer", "string": "text", "array": "a list", "object": "an object"}
INTRODUCTION = """# Policy reference

Every key of a policy's `rules`, as the JSON Schema has it that `GET /v1/policy-schema` answers.
In the package it is `pointsman/policy.schema.json`; this page is made from it.
How a policy is found, written and tried out is in [Policies](policies.md)."""


def read_schema() -> Schema:
    """The published schema of policy rules."""
    schema: Schema = json.loads((files("pointsman") / "policy.schema.json").read_text("utf-8"))
    return schema


def reference(schema: Schema) -> str:
    """The page, a section for each key."""
    parts = [INTRODUCTION, _sentences(schema["description"]), *map(block, schema["examples"])]
    for name, part in schema["properties"].items():
        parts += _section(name, part, name in schema["required"])
    return "\n\n".join(parts) + "\n"


def _section(name: str, part: Schema, required: bool) -> Iterator[str]:
    yield f"## `{name}`"
    yield _head(part, required)
    yield from _words(part.get("items", {}))
    for inner, deeper in part.get("properties", {}).items():
        yield f"### `{name}.{inner}`"
        yield _head(deeper, inner in part["required"])
        yield from _words(deeper)
    if "properties" in part:
        yield f"### Examples of `{name}`"
    for example in part["examples"]:
        yield block({name: example})


def _head(part: Schema, required: bool) -> str:
    kind = TYPES[part["type"]] if "type" in part else "one of the words below"
    if "minimum" in part:
        kind += f" of {part['minimum']} or more"
    default = f", by default `{json.dumps(part['default'])}`" if "default" in part else ""
    return f"{'Required' if required else 'Optional'}: {kind}{default}.\n{_sentences(part['description'])}"


def _words(part: Schema) -> Iterator[str]:
    """A table of the words that may stand there."""
    if "oneOf" in part:
        rows = [f"| `{word['const']}` | {word['description']} |" for word in part["oneOf"]]
        yield "\n".join(["| word | meaning |", "|---|---|", *rows])


def _sentences(text: str) -> str:
    """A line for each sentence."""
    return re.sub(r"(?<=\.) (?=[A-Z])", "\n", text)


def block(example: Schema) -> str:
    """A fenced block of JSON, a line for each key."""
    if len(example) == 1:
        return f"```json\n{json.dumps(example)}\n```"
    lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in example.items())
    return f"```json\n{{\n{lines}\n}}\n```"


if __name__ == "__main__":
    FILE.write_text(reference(read_schema()), "utf-8", newline="\n")
