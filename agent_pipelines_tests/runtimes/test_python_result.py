import dataclasses
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import BaseModel

from agent_pipelines.core.errors import ErrorClass, RuntimeFailure
from agent_pipelines.core.event import AgentEvent, Final, Reasoning, Text
from agent_pipelines.runtimes.python_result import PythonResult, failure_of_exception


class Answer(BaseModel):
    total: int


@dataclasses.dataclass
class Place:
    name: str
    seen: datetime


def returned(value: object) -> list[AgentEvent]:
    result = PythonResult()
    return [*result.take_returned(value), *result.finish()]


@pytest.mark.parametrize(
    ("value", "output", "text"),
    [
        ({"a": "ü"}, {"a": "ü"}, '{"a": "ü"}'),
        ([1, 2], [1, 2], "[1, 2]"),
        (3.5, 3.5, "3.5"),
        (False, False, "false"),
        (Answer(total=3), {"total": 3}, '{"total": 3}'),
        (
            Place("Bern", datetime(2026, 1, 1, tzinfo=UTC)),
            {"name": "Bern", "seen": "2026-01-01T00:00:00Z"},
            '{"name": "Bern", "seen": "2026-01-01T00:00:00Z"}',
        ),
    ],
)
def test_what_has_a_json_form_is_the_output(value: object, output: Any, text: str) -> None:
    assert returned(value) == [Text(text=text), Final(text=text, output=output)]


def test_a_returned_event_passes() -> None:
    assert returned(Final(text="done", model="m")) == [Text(text="done"), Final(text="done", model="m")]
    assert returned(Reasoning(text="hm")) == [Reasoning(text="hm"), Final()]


def test_empty_pieces_are_left_out() -> None:
    assert returned(piece for piece in ("", "a", "")) == [Text(text="a"), Final(text="a")]


def test_a_coroutine_is_explained() -> None:
    async def late() -> str:
        return "never"

    coroutine = late()
    with pytest.raises(RuntimeFailure, match="async def"):
        returned(coroutine)
    coroutine.close()


def test_an_exception_becomes_a_failure_of_the_agent() -> None:
    failure = failure_of_exception(KeyError("city"))
    assert (failure.error_class, failure.message) == (ErrorClass.AGENT, "KeyError: 'city'")
    assert failure_of_exception(failure) is failure
