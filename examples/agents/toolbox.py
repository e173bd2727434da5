"""The tools of one agent during one piece of work."""

import inspect
import json
import threading
from collections.abc import Callable, Sequence
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

Json = Any
"""Anything that `json.dumps` takes."""


class ToolError(Exception):
    """A tool cannot do what it was asked; the text says why."""


class ToolUnavailableError(ToolError):
    """A tool cannot do it now; later it may."""


class WorkCancelledError(Exception):
    """Whoever asked for the work has gone."""


class Tool:
    """A function that an agent may call: its first line of documentation and its signature describe it."""

    def __init__(self, function: Callable[..., Json]) -> None:
        self.function = function
        self.name = function.__name__
        self.description = inspect.getdoc(function) or self.name
        hints = get_type_hints(function)
        fields: dict[str, Any] = {
            name: (hints[name], ... if parameter.default is parameter.empty else parameter.default)
            for name, parameter in inspect.signature(function).parameters.items()
        }
        self.arguments: type[BaseModel] = create_model(self.name, __config__=ConfigDict(extra="forbid"), **fields)

    def declaration(self) -> dict[str, Json]:
        """The tool as the OpenAI protocol describes one."""
        schema = self.arguments.model_json_schema()
        return {"type": "function", "function": {"name": self.name, "description": self.description, "parameters": schema}}

    def call(self, arguments: dict[str, Json]) -> Json:
        """Run the function. Raises ToolError for arguments that it does not take."""
        try:
            valid = self.arguments.model_validate(arguments)
        except ValidationError as error:
            problems = "; ".join(f"`{'.'.join(map(str, item['loc']))}`: {item['msg']}" for item in error.errors())
            raise ToolError(f"{self.name}: {problems}") from None
        return self.function(**{name: getattr(valid, name) for name in type(valid).model_fields})


class Toolbox:
    """Runs tools and tells what each one was asked and gave back."""

    def __init__(self, functions: Sequence[Callable[..., Json]], tell: Callable[[str], None] = lambda line: None) -> None:
        self.tools = {tool.name: tool for tool in map(Tool, functions)}
        self.cancelled = threading.Event()
        self.told = ""
        """All that was told so far."""
        self._tell = tell

    def tell(self, line: str) -> None:
        """Say what the agent is thinking."""
        self.told += line + "\n"
        self._tell(line + "\n")

    def call(self, name: str, **arguments: Json) -> Json:
        """Run a tool. Raises WorkCancelledError in its place once the work was cancelled."""
        if self.cancelled.is_set():
            raise WorkCancelledError(f"cancelled before {name}")
        tool = self.tools.get(name)
        if tool is None:
            raise ToolError(f"there is no tool {name!r}; there are: {', '.join(self.tools) or 'none'}")
        asked = ", ".join(f"{key}={_short(value, 60)}" for key, value in arguments.items())
        try:
            result = tool.call(arguments)
        except ToolError as error:
            self.tell(f"{name}({asked}) failed: {error}")
            raise
        self.tell(f"{name}({asked}) -> {_short(result, 160)}")
        return result


def _short(value: Json, length: int) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= length else text[: length - 1] + "…"
