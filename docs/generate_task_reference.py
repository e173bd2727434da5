"""Writes docs/reference/task.md, and the tables of settings in docs/reference/runtimes.md, from the models.

Run it from the root of the project: `python docs/generate_task_reference.py`.
"""

import json
import re
import types
import typing
from datetime import date
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from agent_pipelines.core.batch import BatchSpec, ItemsSpec
from agent_pipelines.core.calendar import Calendar
from agent_pipelines.core.duration import Duration
from agent_pipelines.core.task import (
    Budget,
    CacheSpec,
    CheckSpec,
    ClassRetrySpec,
    DegradeSpec,
    FallbackSpec,
    OutputSpec,
    RetrySpec,
    ServiceLevel,
    SessionSpec,
    TaskSpec,
    TimeoutSpec,
    WindowSpec,
)
from agent_pipelines.core.trigger import After, AssetUpdate, At, Cron, Event, Interval, TimeTrigger, TriggerBase
from agent_pipelines.runtimes import catalog
from agent_pipelines.runtimes.command_output import EventRule, Fields

REFERENCE = Path(__file__).parent / "reference"

PARTS: tuple[type[BaseModel], ...] = (
    SessionSpec,
    WindowSpec,
    OutputSpec,
    CheckSpec,
    TimeoutSpec,
    RetrySpec,
    ClassRetrySpec,
    FallbackSpec,
    DegradeSpec,
    CacheSpec,
    Budget,
    ServiceLevel,
    BatchSpec,
    ItemsSpec,
)
TRIGGERS: tuple[type[TriggerBase], ...] = (Cron, Interval, At, Event, AssetUpdate, After)

_PATTERNS = {
    r"^[a-z][a-z0-9_]*$": "name",
    r"^([a-z][a-z0-9_]*)?$": "name",
    r"^[\w.]+:\w+$": "`module:function`",
    r"^(concat|[\w.]+:\w+)$": "`concat` or `module:function`",
    r"^[\w.]+:[\w.]+$": "`module:function`",
}
_WORDS = {str: "text", int: "whole number", float: "number", bool: "yes or no", date: "date", Duration: "duration"}
_UNITS = (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))
_BOUNDS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}

_HEAD = """\
# Fields of a task

<!-- Generated from the models by docs/generate_task_reference.py; do not edit. -->

A task is declared in a `defs.yaml` (`type: agent_pipelines.components.AgentTask`, the fields under `attributes`), in Python as
`AgentTask(...)`, or as a function with `@agent_task(...)`. All three are a `TaskSpec`. An unknown field is refused.

- A *name* is lower-case letters, digits and `_`, and begins with a letter.
- A *duration* is a number of seconds, or units: `90`, `30s`, `15m`, `1h 30m`, `2d`, `1w`, `250ms`.
- A *template* is Jinja2; [context.md](context.md) says what it can use.
- In YAML `name` may be left out: it is then the name of the folder.

Some fields are declared, stored and shown, and nothing acts on them in this version: `budget`, `cost_estimate`,
`service_level.start_within`, `risk`. The names in `notifications` are written to the outbox, which nothing reads yet.
"""


def page() -> str:
    """The text of docs/reference/task.md."""
    parts = [_HEAD, "## TaskSpec\n", _doc(TaskSpec), table(TaskSpec)]
    for model in PARTS:
        parts += [f"## {model.__name__}\n", _doc(model), table(model)]
    shared = set(TriggerBase.model_fields)
    parts += [
        "## Triggers\n",
        "An item of `triggers` is one of the following; `kind` says which and must be written in YAML. All kinds share these "
        "fields:\n",
        table(TriggerBase),
    ]
    of_time = set(TimeTrigger.model_fields)
    parts += [
        "The triggers of time, `cron`, `interval` and `at`, share these besides:\n",
        table(TimeTrigger, without=shared),
    ]
    for model in TRIGGERS:
        kind = model.model_fields["kind"].default
        without = (of_time if issubclass(model, TimeTrigger) else shared) | {"kind"}
        parts += [f"### {model.__name__}: `kind: {kind}`\n", _doc(model), table(model, without=without)]
    parts += ["### Calendar\n", _doc(Calendar), table(Calendar)]
    return "\n".join(parts)


def with_tables(text: str) -> str:
    """A page with the tables of settings between its markers, as in `<!-- fields: openai -->`."""
    models = {kind: catalog.runtime_type(kind).config_type for kind in catalog.kinds()}
    models |= {model.__name__: model for model in (Fields, EventRule)}

    def filled(found: re.Match[str]) -> str:
        name = found["name"]
        without = set(Fields.model_fields) if name == "EventRule" else set[str]()
        return f"<!-- fields: {name} -->\n\n{table(models[name], without=without)}\n<!-- end -->"

    return re.sub(r"<!-- fields: (?P<name>\w+) -->.*?<!-- end -->", filled, text, flags=re.DOTALL)


def table(model: type[BaseModel], *, without: set[str] | frozenset[str] = frozenset()) -> str:
    """The fields of a model as a Markdown table."""
    lines = ["| Field | Type | Default | Meaning |", "| --- | --- | --- | --- |"]
    for name, field in model.model_fields.items():
        if name not in without:
            cells = (f"`{field.alias or name}`", _type(field), _default(field), _meaning(field))
            lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def _doc(model: type[BaseModel]) -> str:
    paragraphs = (model.__doc__ or "").strip().split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs) + "\n"


def _type(field: FieldInfo) -> str:
    pattern = next((found for part in field.metadata if (found := getattr(part, "pattern", None))), None)
    words = _words(field.annotation) if pattern is None else _PATTERNS[pattern]
    bounds = [
        f"{bound} {getattr(part, name):,}" for part in field.metadata for name, bound in _BOUNDS.items() if hasattr(part, name)
    ]
    return ", ".join([words, *bounds])


def _words(annotation: Any) -> str:
    if annotation in _WORDS:
        return _WORDS[annotation]
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return " or ".join(f"`{each}`" for each in arguments)
    if origin is typing.Annotated:
        return _words(arguments[0])
    if origin is tuple:
        return f"list of {_words(arguments[0])}"
    if origin is dict:
        return "mapping" if arguments[0] is str else f"mapping of {_words(arguments[0])} to {_words(arguments[1])}"
    if origin in (typing.Union, types.UnionType):
        known = [part for part in arguments if part is not type(None)]
        return "trigger" if Cron in known else " or ".join(dict.fromkeys(map(_words, known)))
    if isinstance(annotation, type) and issubclass(annotation, StrEnum):
        return "error class"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return (
            f"[{annotation.__name__}](#{annotation.__name__.lower()})"
            if annotation in (*PARTS, Calendar)
            else f"`{annotation.__name__}`"
        )
    return "JSON"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True)
    if default is None or default is PydanticUndefined or default == "":
        return "none"
    if isinstance(default, Duration):
        return _length(default)
    if isinstance(default, BaseModel):
        return "its defaults"
    if isinstance(default, tuple | dict):
        return ", ".join(f"`{each}`" for each in default) or "none"
    if isinstance(default, bool):
        return "yes" if default else "no"
    return f"`{default}`"


def _length(seconds: float) -> str:
    for unit, size in _UNITS:
        if seconds and seconds % size == 0:
            return f"`{seconds / size:g}{unit}`"
    return f"`{seconds:g}`"


def _meaning(field: FieldInfo) -> str:
    example = field.examples[0] if field.examples else None
    shown = "" if example is None else f" Example: `{example if isinstance(example, str) else json.dumps(example)}`"
    return (field.description or "") + shown


if __name__ == "__main__":
    (REFERENCE / "task.md").write_text(page(), encoding="utf-8")
    runtimes = REFERENCE / "runtimes.md"
    runtimes.write_text(with_tables(runtimes.read_text(encoding="utf-8")), encoding="utf-8")
