"""What the answers look like in OpenAPI: derived from the frozen values, changed where their JSON differs."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from pointsman.model import Explanation, Lead, Outcome, ReasonCode
from pointsman.wire import PROBLEM_TYPE

_Schema = dict[str, Any]

PROBLEM: _Schema = {
    "type": "object",
    "description": "An RFC 9457 problem detail.",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "examples": [PROBLEM_TYPE + "lead-not-found"]},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
    },
}
_MEDIA = {"PolicySchema": "application/schema+json", "Metrics": "text/plain"}
_WHY = {
    401: "No key, or one that the service does not know",
    403: "A key whose scope does not allow this",
    404: "No such lead or decision",
    409: "The database's own rules refuse the assignment",
    410: "The configuration of that time is no longer kept",
    422: "The request cannot be read",
    503: "Not ready, busy, or the database is away; try again after `Retry-After`",
}


def answers(name: str, *statuses: int) -> dict[int | str, _Schema]:
    """The `responses` of a route that answers with the schema `name`, or with a problem of these `statuses`."""
    open_to_all = name in ("Alive", "Ready")
    expected = sorted({*statuses, 503, *(() if open_to_all else (401, 403, 422))})
    media = _MEDIA.get(name, "application/json")
    return {
        200: {"description": name, "content": {media: {"schema": _SCHEMAS[name]}}},
        **{
            status: {"description": _WHY[status], "content": {"application/problem+json": {"schema": PROBLEM}}}
            for status in expected
        },
    }


def _object(**properties: _Schema) -> _Schema:
    return {"type": "object", "required": list(properties), "properties": properties}


def _derived(kind: Any) -> _Schema:
    """The JSON Schema of a frozen value with every reference replaced, and every field required."""
    schema = TypeAdapter(kind).json_schema(mode="serialization")
    definitions = schema.pop("$defs", {})
    inlined: _Schema = _inlined(schema, definitions)
    return inlined


def _inlined(part: Any, definitions: _Schema) -> Any:
    if isinstance(part, list):
        return [_inlined(item, definitions) for item in part]
    if not isinstance(part, dict):
        return part
    if "$ref" in part:
        return _inlined(definitions[part["$ref"].rpartition("/")[2]], definitions)
    found = {key: _inlined(item, definitions) for key, item in part.items() if key != "default"}
    if "properties" in found:
        found["required"] = list(found["properties"])
    return found


def _schemas() -> dict[str, _Schema]:
    outcome = _derived(Outcome)
    explanation = _derived(Explanation)
    explanation["properties"]["excluded"]["items"]["properties"]["reasons"]["items"] = {
        "type": "object",
        "description": "A code with its facts beside it.",
        "required": ["code"],
        "properties": {"code": {"type": "string", "enum": list(ReasonCode)}},
        "additionalProperties": True,
    }
    explanation["properties"]["excluded"]["items"]["properties"]["nearest_miss"] = {
        "type": ["object", "null"],
        "description": "The smallest single change that would have made the buyer eligible, its facts beside it.",
        "required": ["change"],
        "properties": {"change": {"type": "string"}},
        "additionalProperties": True,
    }
    text, count = {"type": "string"}, {"type": "integer"}
    lead = TypeAdapter(Lead).json_schema()["prefixItems"]
    record = _object(
        **{name: schema for name, schema in outcome["properties"].items() if name != "status"},
        attempt={"type": "integer", "minimum": 1},
        **dict(zip(Lead._fields[1:6], lead[1:6], strict=True)),
        engine_version=text,
        tzdata_version=text,
        unicode_version=text,
        digest=text,
    )
    entry = {"anyOf": [outcome, _object(lead_id={"type": "string", "format": "uuid"}, error=PROBLEM)]}
    return {
        "Outcome": outcome,
        "Batch": {"type": "array", "items": entry},
        "Explanation": explanation,
        "Record": record,
        "Records": {"type": "array", "items": record},
        "Cache": _object(
            config_version={"type": ["integer", "null"]},
            lag={"type": ["number", "null"]},
            state={"type": "string", "enum": ["loading", "fresh", "stale", "down"]},
            sizes={"type": "object", "additionalProperties": count},
            invalid_policies={"type": "array"},
        ),
        "PolicySchema": {"type": "object"},
        "Metrics": text,
        "Alive": _object(status={"const": "alive"}),
        "Ready": _object(status={"const": "ready"}, state=text, config_version=count),
    }


_SCHEMAS = _schemas()
