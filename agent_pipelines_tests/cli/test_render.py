import json
from enum import StrEnum

import pytest
from pydantic import BaseModel, JsonValue

from agent_pipelines.cli import render


class Colour(StrEnum):
    RED = "red"


class Inner(BaseModel):
    due_at: int


class Outer(BaseModel):
    at: int
    finished_at: int | None
    retry_delay_us: int
    colour: Colour
    inner: Inner
    several: tuple[Inner, ...]
    payload: dict[str, JsonValue]


def test_a_record_has_readable_instants_and_durations_and_leaves_payloads_alone() -> None:
    model = Outer(
        at=1_767_225_600_000_001,
        finished_at=None,
        retry_delay_us=1_500_000,
        colour=Colour.RED,
        inner=Inner(due_at=0),
        several=(Inner(due_at=1_000_000),),
        payload={"created_at": 5, "wait_us": 6},
    )
    assert render.record(model, more=1) == {
        "at": "2026-01-01T00:00:00.000001Z",
        "finished_at": None,
        "retry_delay_seconds": 1.5,
        "colour": "red",
        "inner": {"due_at": "1970-01-01T00:00:00Z"},
        "several": [{"due_at": "1970-01-01T00:00:01Z"}],
        "payload": {"created_at": 5, "wait_us": 6},
        "more": 1,
    }


@pytest.mark.parametrize(
    ("value", "words"),
    [(None, None), (0.0, "0 ms"), (0.25, "250 ms"), (2.04, "2.0 s"), (119.9, "119.9 s"), (125, "2 m 05 s"), (7_260, "2 h 01 m")],
)
def test_durations(value: float | None, words: str | None) -> None:
    assert render.seconds(value) == words


@pytest.mark.parametrize(
    ("value", "words"), [(None, "unknown"), (0.0, "$0.0000"), (0.00031, "$0.0003"), (12.5, "$12.50"), (1_234.5, "$1,234.50")]
)
def test_money_that_is_not_known_is_not_zero(value: float | None, words: str) -> None:
    assert render.cost(value) == words


def test_control_characters_and_secrets_are_not_shown() -> None:
    assert render.visible("a\x1b[31mb\tc\r\nd\x7f\u202e") == r"a\x1b[31mb" + "\tc\nd" + r"\x7f\u202e"
    assert render.visible("key sk-abcdefgh12345678") == "key [secret]"


def test_a_document_is_json_without_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    render.document({"a": ["ä", None, "Bearer abcdefgh12345678"]})
    assert json.loads(capsys.readouterr().out) == {"a": ["ä", None, "Bearer [secret]"]}


def test_a_narrow_terminal_cuts_nothing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    long = "a reason that is longer than any terminal of thirty columns is wide"
    render.table(("id", "status", "reason"), [("01a1fc37-cdb1-7b68", "succeeded", long)], empty="none")
    shown = capsys.readouterr().out
    assert "01a1fc37-cdb1-7b68  succeeded  a reason" in shown
    assert " ".join(part for line in shown.splitlines()[1:] for part in line[31:].split()) == long


def test_an_empty_table_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    render.table(("id",), [], empty="no executions")
    assert capsys.readouterr().out == "no executions\n"
