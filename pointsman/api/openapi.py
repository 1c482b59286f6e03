"""What the answers look like in OpenAPI: derived from the frozen values, changed where their JSON differs."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

from pydantic import TypeAdapter

from pointsman.api.examples import ANSWERS, PROBLEMS
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
_HEADERS: _Schema = {
    "X-Request-ID": {"description": "The id that the call came with, or a new one", "schema": {"type": "string"}}
}
_RETRY_AFTER: _Schema = {
    "Retry-After": {"description": "After how many seconds to try again", "schema": {"type": "integer"}}
}
_WHY = {
    401: "No key, or one that the service does not know",
    403: "A key whose scope does not allow this",
    404: "No such lead or decision",
    409: "The database's own rules refuse the assignment",
    408: "The body did not come in time",
    410: "What the decision was made on is no longer known for sure",
    413: "The body is too large",
    422: "The request cannot be read",
    500: "A failure of the service's own; its log says what",
    503: "Not ready, busy, or the database is away; try again after `Retry-After`",
}


def answers(name: str, *statuses: int) -> dict[int | str, _Schema]:
    """The `responses` of a route that answers with the schema `name`, or with a problem of these `statuses`."""
    open_to_all = name in ("Alive", "Ready")
    expected = sorted({*statuses, 500, 503, *(() if open_to_all else (401, 403, 422))})
    media = _MEDIA.get(name, "application/json")
    return {
        200: {"description": name, "headers": _HEADERS, "content": {media: {"schema": _SCHEMAS[name]}}},
        **{status: _problem(status) for status in expected},
    }


def _problem(status: int) -> _Schema:
    return {
        "description": _WHY[status],
        "headers": {**_HEADERS, **(_RETRY_AFTER if status == 503 else {})},
        "content": {"application/problem+json": {"schema": PROBLEM}},
    }


def with_components(document: _Schema) -> _Schema:
    """The same document with forms and problems said once, by name, and referred to; and with the examples.

    FastAPI would leave what is null out of the examples.
    """
    document = deepcopy(document)  # parts of it belong to the routes, which hosts include too
    forms: dict[str, _Schema] = {}
    problems: dict[str, _Schema] = {}
    for operation in (found for operations in document["paths"].values() for found in operations.values()):
        responses = operation["responses"]
        name = responses["200"]["description"]
        (content,) = responses["200"]["content"].values()
        forms[name] = content["schema"]
        content |= {"schema": {"$ref": f"#/components/schemas/{name}"}, "examples": _named(ANSWERS.get(name, {}))}
        for status in responses.keys() - {"200"}:
            problems[status] = responses[status]
            responses[status] = {"$ref": f"#/components/responses/Problem{status}"}
    for status, response in problems.items():
        (content,) = response["content"].values()
        content |= {"schema": {"$ref": "#/components/schemas/Problem"}, "examples": _named(PROBLEMS[int(status)])}
    components = document.setdefault("components", {})
    components["schemas"] = {**components.get("schemas", {}), **forms, "Problem": PROBLEM}
    components["responses"] = {f"Problem{status}": problems[status] for status in sorted(problems)}
    return document


def _named(examples: dict[str, Any]) -> _Schema:
    return {name: {"value": value} for name, value in examples.items()}


def as_text(document: _Schema) -> str:
    """The document as it is kept in `docs/openapi.json`."""
    return json.dumps(document, indent=2) + "\n"


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
