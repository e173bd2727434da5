"""The reference is current: generated parts are as the models are, and what is public is mentioned."""

import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import agent_pipelines
from agent_pipelines.cli.main import app
from agent_pipelines.core.errors import ErrorClass
from agent_pipelines.core.task import RetrySpec

ROOT = Path(agent_pipelines.__file__).parents[1]
REFERENCE = ROOT / "docs" / "reference"
COMMAND = "python docs/generate_task_reference.py"


@pytest.fixture(scope="module")
def generator() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "docs" / "generate_task_reference.py"))


def test_the_page_of_tasks_is_current(generator: dict[str, Any]) -> None:
    written = (REFERENCE / "task.md").read_text(encoding="utf-8")
    assert written == generator["page"](), f"docs/reference/task.md is not as the models are: run `{COMMAND}`"


def test_every_part_of_a_task_has_a_table(generator: dict[str, Any]) -> None:
    written = (REFERENCE / "task.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\(#(\w+)\)", written)) == {
        model.__name__.lower() for model in (*generator["PARTS"], generator["Calendar"])
    }


def test_the_settings_of_runtimes_are_current(generator: dict[str, Any]) -> None:
    written = (REFERENCE / "runtimes.md").read_text(encoding="utf-8")
    assert written == generator["with_tables"](written), f"docs/reference/runtimes.md is not as the models are: run `{COMMAND}`"
    for kind in generator["catalog"].kinds():
        assert f"<!-- fields: {kind} -->" in written, f"docs/reference/runtimes.md has no table for {kind}: add its markers"


def test_the_table_of_errors_says_what_is_retried() -> None:
    written = (REFERENCE / "runtimes.md").read_text(encoding="utf-8")
    told = dict(re.findall(r"^\| `(\w+)` \|.*\| (yes|no)\b[^|]*\|$", written, flags=re.MULTILINE))
    assert {name: answer == "yes" for name, answer in told.items()} == {
        str(each): each in RetrySpec().errors for each in ErrorClass
    }


@pytest.mark.parametrize("name", agent_pipelines.__all__)
def test_every_public_name_is_mentioned(name: str) -> None:
    assert re.search(rf"`[^`\n]*\b{name}\b[^`\n]*`", _everything()), f"{name} is public: mention it in docs/reference"


def test_every_command_is_mentioned() -> None:
    written = (REFERENCE / "cli.md").read_text(encoding="utf-8")
    for command in _commands(typer.main.get_command(app)):
        assert f"`{command}" in written, f"docs/reference/cli.md does not mention `{command}`"


def _everything() -> str:
    return "\n".join(page.read_text(encoding="utf-8") for page in sorted(REFERENCE.glob("*.md")))


def _commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    below = getattr(command, "commands", None)
    if below is None:
        yield " ".join(path)
    for name in below or ():
        if not below[name].hidden:
            yield from _commands(below[name], (*path, name))
