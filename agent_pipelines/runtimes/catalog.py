"""The runtimes by name; an adapter is imported when it is first asked for."""

from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from pydantic import BaseModel, ValidationError

from agent_pipelines.core.errors import DefinitionError
from agent_pipelines.runtimes.base import Runtime

_ADAPTERS = {
    "anthropic": "agent_pipelines.runtimes.anthropic:AnthropicRuntime",
    "command": "agent_pipelines.runtimes.command:CommandRuntime",
    "fake": "agent_pipelines.runtimes.fake:FakeRuntime",
    "http": "agent_pipelines.runtimes.http_agent:HttpAgentRuntime",
    "node": "agent_pipelines.runtimes.node:NodeRuntime",
    "openai": "agent_pipelines.runtimes.openai:OpenAIRuntime",
    "python": "agent_pipelines.runtimes.python:PythonRuntime",
}


def kinds() -> tuple[str, ...]:
    """The names of all runtimes, sorted."""
    return tuple(sorted(_ADAPTERS))


def runtime_type(kind: str) -> type[Runtime[Any]]:
    """The adapter of a kind. Raises DefinitionError for an unknown one."""
    if kind not in _ADAPTERS:
        problem = f"there is no runtime {kind!r}; known are {', '.join(kinds())}"
        raise DefinitionError(problem, field="kind", fix=_did_you_mean(kind, kinds()))
    module, _, name = _ADAPTERS[kind].partition(":")
    return getattr(import_module(module), name)


def create(kind: str, config: Mapping[str, Any]) -> Runtime[Any]:
    """Make a runtime of its settings. Raises DefinitionError that names the first setting at fault."""
    adapter = runtime_type(kind)
    try:
        return adapter(adapter.config_type.model_validate(dict(config)))
    except ValidationError as error:
        raise _definition_error(kind, adapter.config_type, error) from None


def _definition_error(kind: str, model: type[BaseModel], error: ValidationError) -> DefinitionError:
    # Without the input: a setting may hold a secret by mistake.
    first, *others = error.errors(include_input=False, include_url=False, include_context=False)
    path = [str(part) for part in first["loc"]]
    problem = first["msg"].removeprefix("Value error, ")
    fix = None
    if first["type"] == "extra_forbidden":
        known = sorted(model.model_fields)
        problem = f"the runtime {kind!r} has no such setting"
        fix = (_did_you_mean(path[-1], known) if len(path) == 1 else None) or f"Its settings are {', '.join(known)}"
    elif first["type"] == "missing":
        problem = f"the runtime {kind!r} needs this setting"
    if others:
        problem += f" (and {len(others)} more)"
    return DefinitionError(problem, field=".".join(path) or None, fix=fix)


def _did_you_mean(word: str, known: tuple[str, ...] | list[str]) -> str | None:
    near = get_close_matches(word, known, 1)
    return f"Did you mean {near[0]!r}?" if near else None
