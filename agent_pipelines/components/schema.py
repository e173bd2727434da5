"""The JSON Schema of a declaration, for `dg check yaml` and editors."""

from collections.abc import Collection
from typing import Any

from pydantic import BaseModel

# A text with `{{` stands for whatever Dagster puts in its place.
_TEMPLATE = {"type": "string", "pattern": r"\{\{"}


def schema_of(model: type[BaseModel], *, optional: Collection[str] = ()) -> dict[str, Any]:
    """The schema of a model as it is written in YAML.

    Fields of `optional` need not be written, any field may be a Dagster template, and a union is decided by its `kind`
    first, so that an error names the field inside the chosen member instead of the union.
    """
    schema = _decided_by_kind(model.model_json_schema(by_alias=True))
    schema["required"] = [name for name in schema.get("required", ()) if name not in optional]
    schema["properties"] = {name: _or_template(part) for name, part in schema["properties"].items()}
    return schema


def _or_template(part: dict[str, Any]) -> dict[str, Any]:
    shown = {name: part[name] for name in ("title", "description", "examples", "default") if name in part}
    return {**shown, "if": _TEMPLATE, "then": {}, "else": part}


def _decided_by_kind(node: Any) -> Any:
    if isinstance(node, list):
        return [_decided_by_kind(part) for part in node]
    if not isinstance(node, dict):
        return node
    decided = {name: _decided_by_kind(part) for name, part in node.items()}
    if not isinstance(node.get("discriminator"), dict):
        return decided
    name, members = node["discriminator"]["propertyName"], node["discriminator"]["mapping"]
    decided.pop("oneOf")
    decided.pop("discriminator")
    return {
        **decided,
        "type": "object",
        "required": [name],
        "properties": {name: {"enum": sorted(members)}},
        "allOf": [
            {"if": {"required": [name], "properties": {name: {"const": kind}}}, "then": {"$ref": reference}}
            for kind, reference in members.items()
        ],
    }
