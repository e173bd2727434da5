"""Agents that are Python functions."""

import asyncio
import inspect
import json
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from typing import Any

from pydantic import Field

from agent_pipelines.core.acting import acting
from agent_pipelines.core.duration import Duration
from agent_pipelines.core.errors import DefinitionError, ErrorClass, RuntimeFailure
from agent_pipelines.core.event import AgentEvent, Final, event_adapter
from agent_pipelines.core.invocation import Invocation
from agent_pipelines.core.secrets import redactor
from agent_pipelines.runtimes.base import Capabilities, Runtime, RuntimeConfig
from agent_pipelines.runtimes.process import ProcessGroup, manner_of_end
from agent_pipelines.runtimes.python_child import resolve
from agent_pipelines.runtimes.python_result import PythonResult, failure_of_exception

_CHILD = "agent_pipelines.runtimes.python_child"


class PythonConfig(RuntimeConfig):
    """Settings of an agent that is a Python function."""

    function: str = Field(
        pattern=r"^[\w.]+:[\w.]+$",
        description="`module:function`, called with the invocation; returns text or JSON, or yields text or events.",
        examples=["acme.agents:summarise"],
    )
    grace: Duration = Field(
        default=Duration(5), description="Time between SIGTERM and SIGKILL for a synchronous function.", examples=["5s"]
    )


class PythonRuntime(Runtime[PythonConfig]):
    """A function that is called with the invocation.

    An asynchronous function runs in this process. A synchronous one runs in a child process, because a thread cannot be
    ended; so it must be found by its module and name.
    """

    kind = "python"
    stops_by = "ended the coroutine or the process group of the function"
    config_type = PythonConfig
    capabilities = Capabilities(streams=True, reports_usage=True, cancels=True, structured_output=True)

    def __init__(self, config: PythonConfig) -> None:
        super().__init__(config)
        self._function: Callable[..., Any] | None = None

    @classmethod
    def of(cls, function: Callable[..., Any]) -> "PythonRuntime":
        """Make an agent of a function. Raises DefinitionError for a synchronous one that its module does not have by name."""
        name = f"{function.__module__}:{getattr(function, '__qualname__', type(function).__qualname__)}"
        if not is_async(function) and not _is_importable(name, function):
            raise DefinitionError(
                f"{name} is synchronous and cannot be imported by that name",
                field="function",
                fix="Move it to the top level of a module, or make it `async def`",
            )
        runtime = cls(PythonConfig.model_construct(function=name))  # a nested async function has no name to validate
        runtime._function = function
        return runtime

    async def stream(self, invocation: Invocation) -> AsyncGenerator[AgentEvent, None]:
        """Call the function."""
        if self._function is None:
            self._function = _load(self.config.function)
        source = self._here(invocation, self._function) if is_async(self._function) else self._in_child(invocation)
        async with aclosing(source) as events:
            async for event in events:
                yield event

    async def _here(self, invocation: Invocation, function: Callable[..., Any]) -> AsyncGenerator[AgentEvent, None]:
        result = PythonResult()
        try:
            given = function(invocation)
            if hasattr(given, "__aiter__"):
                async with aclosing(given) as items:
                    async for item in items:
                        for event in result.take(item):
                            yield event
            else:
                for event in result.take_returned(await given):
                    yield event
        except Exception as error:
            raise failure_of_exception(error) from None
        for event in result.finish():
            yield event

    async def _in_child(self, invocation: Invocation) -> AsyncGenerator[AgentEvent, None]:
        name = self.config.function
        whom = acting()
        acts_for = None if whom is None else whom.to_child()
        request = json.dumps({"path": sys.path, "acting": acts_for, "invocation": invocation.model_dump(mode="json")}).encode()
        argv = [sys.executable, "-P", "-m", _CHILD, name]
        end: Final | RuntimeFailure | None = None
        code = 0
        async with ProcessGroup.running(argv, stdin=request, grace=self.config.grace, keep_stderr=False) as group:
            rest = b""
            async for piece in group.output():
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    event = read_line(line)
                    if isinstance(event, Final | RuntimeFailure):
                        end = event
                    else:
                        yield event
                if end is not None:
                    break  # not at the end of the output: a process that the function left behind may hold that open
            # Threads that the function left behind do not hold the result back.
            with suppress(TimeoutError):
                code = await asyncio.wait_for(group.wait(), self.config.grace)
        if end is None:
            problem = f"the process of {name} {manner_of_end(code)} before it gave a result"
            raise RuntimeFailure(ErrorClass.AGENT, problem, status=code)
        if isinstance(end, RuntimeFailure):
            raise end
        yield end


def is_async(function: Callable[..., Any]) -> bool:
    """Whether a callable is a coroutine function or an asynchronous generator function."""
    return any(
        inspect.iscoroutinefunction(each) or inspect.isasyncgenfunction(each)
        for each in (function, getattr(type(function), "__call__", None))  # noqa: B004
    )


def read_line(line: bytes) -> AgentEvent | RuntimeFailure:
    """The event or the failure that a line of the child process holds."""
    if not line.startswith(b'{"failure"'):
        return event_adapter.validate_json(line)
    told = json.loads(line)
    fields = told["failure"]
    failure = RuntimeFailure(
        ErrorClass(fields["error_class"]),
        redactor.text(fields["message"]),
        retry_after=fields["retry_after"],
        status=fields["status"],
        code=fields["code"],
    )
    for note in told["notes"]:
        failure.add_note(redactor.text(note))
    return failure


def _is_importable(name: str, function: Callable[..., Any]) -> bool:
    try:
        return not name.startswith("__main__:") and resolve(name) is function
    except (ImportError, AttributeError):
        return False


def _load(name: str) -> Callable[..., Any]:
    module = name.partition(":")[0]
    try:
        function = resolve(name)
    except Exception as error:
        missing = isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}.")
        if missing or isinstance(error, AttributeError):
            raise RuntimeFailure(ErrorClass.NOT_FOUND, f"there is no function {name}: {error}") from None
        raise failure_of_exception(error) from None
    if not callable(function):
        raise RuntimeFailure(ErrorClass.NOT_FOUND, f"{name} is not a function")
    return function
