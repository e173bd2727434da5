"""The description of the HTTP interface, made of its operations and their models."""

import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from pydantic import BaseModel

from agent_pipelines.web.operation import Operation

_REFERENCES = "#/components/schemas/{model}"

_PROBLEM = {
    "type": "object",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {name: {"type": ["string", "null"]} for name in ("field", "problem", "fix")},
            },
        },
    },
}


def document(operations: Sequence[Operation], prefix: str) -> Mapping[str, Any]:
    """The OpenAPI document of operations below a prefix."""
    schemas: dict[str, Any] = {"Problem": _PROBLEM}
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(prefix + operation.path, {})[operation.method.lower()] = _described(operation, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "agent_pipelines", "version": version("agent-pipelines")},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}],
    }


def _described(operation: Operation, schemas: dict[str, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "summary": operation.summary,
        "parameters": [*_in_path(operation.path), *_in_query(operation.query)],
        "responses": {
            "2XX": {"description": "Done.", "content": {"application/json": {"schema": {"type": "object"}}}},
            "default": {
                "description": "Refused.",
                "content": {"application/problem+json": {"schema": {"$ref": _REFERENCES.format(model="Problem")}}},
            },
        },
    }
    if operation.body is not None:
        schema = _schema(operation.body, schemas)
        if operation.takes_many:
            schema = {"oneOf": [schema, {"type": "array", "items": schema}]}
        described["requestBody"] = {"content": {"application/json": {"schema": schema}}}
    if operation.is_open:
        described["security"] = []
    return described


def _in_path(path: str) -> list[dict[str, Any]]:
    names = re.findall(r"{(\w+)}", path)
    return [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]


def _in_query(model: type[BaseModel]) -> list[dict[str, Any]]:
    schema = model.model_json_schema()
    found: list[dict[str, Any]] = []
    for name, values in schema["properties"].items():
        kept = {key: value for key, value in values.items() if key not in ("title", "description")}
        found.append({"name": name, "in": "query", "description": values.get("description", ""), "schema": kept})
    return found


def _schema(model: type[BaseModel], schemas: dict[str, Any]) -> dict[str, Any]:
    """A reference to the schema of a model, which is added with all that it refers to."""
    whole = model.model_json_schema(ref_template=_REFERENCES)
    schemas.update(whole.pop("$defs", {}))
    schemas[model.__name__] = whole
    return {"$ref": _REFERENCES.format(model=model.__name__)}
