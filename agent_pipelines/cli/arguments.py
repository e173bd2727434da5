"""What several commands take, and how it is read."""

import json
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from agent_pipelines.cli.problems import BadInput
from agent_pipelines.core.clock import Microseconds, to_microseconds
from agent_pipelines.core.duration import Duration

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Application = Annotated[str | None, typer.Option(help="Only this application.")]
Task = Annotated[str | None, typer.Option(help="Only this task: its name, or application/task.")]
Before = Annotated[int | None, typer.Option(help="The page after the row of this seq.", metavar="SEQ")]
Limit = Annotated[int, typer.Option(help="Rows of a page.", min=1, max=1_000)]
Since = Annotated[
    str | None,
    typer.Option(help="From this instant on: ISO 8601, UTC without an offset, or an age as in 2h, 7d.", metavar="INSTANT"),
]
Until = Annotated[str | None, typer.Option(help="Before this instant, written in the same ways.", metavar="INSTANT")]


def instant(text: str | None, option: str, now: Microseconds) -> Microseconds | None:
    """Read an instant: ISO 8601, in UTC if it has no offset, or an age. Raises BadInput."""
    if text is None:
        return None
    try:
        return now - round(Duration.parse(text) * 1_000_000)
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise BadInput(
            f"{option} {text!r} is no instant; write ISO 8601, as in 2026-01-31T06:00:00Z, or an age, as in 2h"
        ) from None
    return to_microseconds(moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC))


def json_object(text: str, what: str) -> dict[str, Any]:
    """Read a JSON object. Raises BadInput."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise BadInput(f"{what} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise BadInput(f'{what} is not a JSON object; write one, as in {{"commit": "4f2a"}}')
    return value


def variables(pairs: list[str]) -> dict[str, Any]:
    """Read `key=value` pairs; a value that is JSON is that value, all others are text. Raises BadInput."""
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier():
            raise BadInput(f"--var {pair!r} is not name=value; write it as in --var region=emea")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found
