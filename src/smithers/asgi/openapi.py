"""OpenAPI: the document of an app, made from its table of routes. Shapes that several routes share are named here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Final

from smithers.asgi.routing import Route

TEXT: Final[dict[str, object]] = {"type": "string"}
COUNT: Final[dict[str, object]] = {"type": "integer", "minimum": 0}
OPTIONAL_TEXT: Final[dict[str, object]] = {"type": ["string", "null"]}
OPTIONAL_MS: Final[dict[str, object]] = {"type": ["integer", "null"]}


def ref(name: str) -> dict[str, object]:
    """A reference to a shared shape."""
    return {"$ref": f"#/components/schemas/{name}"}


def shape(required: Mapping[str, object], optional: Mapping[str, object] | None = None) -> dict[str, object]:
    """An object's schema."""
    return {"type": "object", "required": list(required), "properties": {**required, **(optional or {})}}


SCHEMAS: Final[dict[str, dict[str, object]]] = {
    "Error": shape({"error": shape({"code": TEXT, "message": TEXT}, {"details": {"type": "object"}})}),
    "RunState": shape(
        {"runId": TEXT, "state": TEXT, "computedAt": TEXT},
        {"blocked": {"type": "object"}, "unhealthy": {"type": "object"}},
    ),
    "RunStatus": shape(
        {
            "runId": TEXT,
            "workflowName": TEXT,
            "status": TEXT,
            "startedAtMs": OPTIONAL_MS,
            "finishedAtMs": OPTIONAL_MS,
            "summary": {"type": "object", "additionalProperties": COUNT},
        },
        {"runState": ref("RunState")},
    ),
    "RunRow": shape(
        {"runId": TEXT, "workflowName": TEXT, "status": TEXT, "createdAtMs": COUNT},
        {"runState": ref("RunState"), "startedAtMs": OPTIONAL_MS, "finishedAtMs": OPTIONAL_MS},
    ),
    "Started": shape({"runId": TEXT}, {"status": TEXT}),
    "Cancellation": shape(
        {"runId": TEXT, "won": {"type": "boolean"}, "status": TEXT, "repaired": {"type": "boolean"}},
        {"terminalStatus": TEXT},
    ),
    "Frame": shape({"runId": TEXT, "frameNo": COUNT, "createdAtMs": COUNT, "xmlJson": TEXT, "xmlHash": TEXT}),
    # of a stream the schema is that of each event, as tools read it
    "StreamEvent": shape({}, {"event": TEXT, "data": TEXT, "id": TEXT, "retry": COUNT}),
    "Signal": shape(
        {"runId": TEXT, "seq": COUNT, "signalName": TEXT, "correlationId": OPTIONAL_TEXT, "receivedAtMs": COUNT}
    ),
    "Approval": shape(
        {
            "runId": TEXT,
            "nodeId": TEXT,
            "workflowName": TEXT,
            "iteration": COUNT,
            "label": TEXT,
            "requestTitle": TEXT,
            "waitingMs": COUNT,
        },
        {
            "runStatus": OPTIONAL_TEXT,
            "requestSummary": OPTIONAL_TEXT,
            "note": OPTIONAL_TEXT,
            "decidedBy": OPTIONAL_TEXT,
        },
    ),
}

DECISION_BODY: Final = shape(
    {},
    {
        "iteration": COUNT,
        "note": OPTIONAL_TEXT,
        "decidedBy": OPTIONAL_TEXT,
        "decision": {"type": "object", "description": "`selected` or `ranked`, for approvals that offer a choice"},
        "value": {"description": "the answer to a human task"},
    },
)
SIGNAL_BODY: Final = shape(
    {},
    {
        "data": {},
        "correlationId": OPTIONAL_TEXT,
        "receivedBy": OPTIONAL_TEXT,
        "idempotencyKey": {"type": ["string", "null"], "minLength": 1, "maxLength": 256},
    },
)


def document(title: str, routes: Sequence[Route]) -> dict[str, object]:
    """The OpenAPI 3.1 document of a table of routes."""
    paths: dict[str, dict[str, object]] = {}
    for route in routes:
        paths.setdefault(re.sub(r":(\w+)", r"{\1}", route.path), {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version("smithers")},
        "paths": paths,
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-smithers-key"},
            },
        },
    }


def _operation(route: Route) -> dict[str, object]:
    doc = route.doc
    names = re.findall(r":(\w+)", route.path)
    parameters = [_parameter(name, "path", {"type": "string", "minLength": 1}) for name in names]
    parameters += [_parameter(name, "query", schema) for name, schema in doc.query.items()]
    errors = {*doc.errors, *((401, 403) if route.access == "token" else ()), *((400, 413) if doc.body else ()), 500}
    responses: dict[str, object] = {
        str(doc.status): {
            "description": "The answer",
            "content": {doc.media_type: {"schema": dict(doc.answer) or {"type": "string"}}},
        }
    }
    for status in sorted(errors):
        responses[str(status)] = {
            "description": _STATUS.get(status, "An error"),
            "content": {"application/json": {"schema": ref("Error")}},
        }
    found: dict[str, object] = {
        "operationId": _operation_id(route),
        "summary": doc.summary,
        "tags": [doc.tag],
        "responses": responses,
        "security": [{"bearer": []}, {"key": []}] if route.access == "token" else [],
    }
    if parameters:
        found["parameters"] = parameters
    if doc.body is not None:
        found["requestBody"] = {"content": {"application/json": {"schema": dict(doc.body)}}}
    return found


def _parameter(name: str, place: str, schema: Mapping[str, object]) -> dict[str, object]:
    return {"name": name, "in": place, "required": place == "path", "schema": dict(schema)}


def _operation_id(route: Route) -> str:
    words = re.findall(r"\w+", route.path)
    return route.method.lower() + "".join(word[0].upper() + word[1:] for word in words)


_STATUS = {
    400: "The request does not fit",
    401: "No valid token or signature",
    403: "Not addressed to this machine",
    404: "Not found",
    409: "The state does not allow it",
    413: "The body is too large",
    500: "Unexpected",
    503: "Too much at once",
}
