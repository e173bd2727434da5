"""What a Python callable gives back, as events."""

import inspect
import json
import traceback
from collections.abc import Iterator
from typing import TypeGuard, get_args

from pydantic_core import PydanticSerializationError, to_jsonable_python

from agent_pipelines.core.errors import ErrorClass, RuntimeFailure
from agent_pipelines.core.event import AgentEvent, Final, Text
from agent_pipelines.core.secrets import redactor
from agent_pipelines.runtimes.excerpt import excerpt

_EVENT = get_args(AgentEvent)[0]


class PythonResult:
    """Takes what a callable returned or yielded, and ends with exactly one Final."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._final: Final | None = None

    def take_returned(self, value: object) -> Iterator[AgentEvent]:
        """The events of a returned value: a text, an event, nothing, or anything else that has a JSON form."""
        if inspect.isgenerator(value):
            for item in value:
                yield from self.take(item)
        elif value is None or isinstance(value, str) or is_event(value):
            yield from self.take("" if value is None else value)
        else:
            try:
                output = to_jsonable_python(value)
            except PydanticSerializationError:
                kind = type(value).__name__
                fix = "declare it `async def`" if inspect.isawaitable(value) else "return text, an event, or what has a JSON form"
                raise RuntimeFailure(ErrorClass.AGENT, f"the function returned a value of type {kind}; {fix}") from None
            yield from self.take(Final(text=json.dumps(output, ensure_ascii=False), output=output))

    def take(self, item: object) -> Iterator[AgentEvent]:
        """The events of one yielded item: a text or an event."""
        if self._final is not None:
            raise RuntimeFailure(ErrorClass.AGENT, "the function yielded something after its Final; end with that")
        if isinstance(item, str):
            item = Text(text=item)
        if not is_event(item):
            raise RuntimeFailure(
                ErrorClass.AGENT, f"the function yielded an object of type {type(item).__name__}; yield text or events"
            )
        if isinstance(item, Text):
            if not item.text:
                return
            self._pieces.append(item.text)
        if isinstance(item, Final):
            self._final = item  # kept back: what comes after it may still fail
            if item.text and not self._pieces:
                yield Text(text=item.text)
        else:
            yield item

    def finish(self) -> Iterator[AgentEvent]:
        """The Final that the callable gave, or one that is made of its texts."""
        yield self._final or Final(text="".join(self._pieces))


def is_event(value: object) -> TypeGuard[AgentEvent]:
    """Whether a value is an event."""
    return isinstance(value, _EVENT)


def failure_of_exception(error: BaseException) -> RuntimeFailure:
    """The failure that an exception of a callable stands for; the traceback is its note."""
    if isinstance(error, RuntimeFailure):
        return error
    if isinstance(error, BaseExceptionGroup):  # of several that worked at once
        told = next((each for each in _leaves(error) if isinstance(each, RuntimeFailure)), None)
        if told is not None:
            return told
    failure = RuntimeFailure(ErrorClass.AGENT, excerpt(f"{type(error).__name__}: {error}"))
    failure.add_note(redactor.text("".join(traceback.format_exception(error))))
    return failure


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
