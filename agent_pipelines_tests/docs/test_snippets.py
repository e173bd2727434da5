"""What stands in the pages as YAML can be declared, and what stands there as Python runs."""

import ast
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent_pipelines.components.agent import Agent, AgentSpec
from agent_pipelines.components.limits import Limits
from agent_pipelines.components.reading import validate
from agent_pipelines.components.source import Source
from agent_pipelines.components.task import AgentTask
from agent_pipelines.core.errors import ErrorClass
from agent_pipelines.core.task import RetrySpec, TaskSpec
from agent_pipelines_tests.docs.markdown import ROOT, blocks, name, pages

_KINDS = {
    "agent_pipelines.components.AgentTask": AgentTask,
    "agent_pipelines.components.Agent": Agent,
    "agent_pipelines.components.Limits": Limits,
}
# What a part of a declaration lacks.
_TASK = {"name": "task", "intent": "Do it", "agent": "agent", "prompt": "Do it"}
_AGENT = {"name": "agent", "runtime": "fake"}

YAML = [(page, block) for page in pages() for block in blocks(page) if block.language == "yaml" and block.is_run]
PYTHON = [
    (page, block)
    for page in pages()
    for block in blocks(page)
    if block.language == "python" and page.parent.name == "reference" and block.is_run
]


def _where(page: Path, line: int) -> str:
    return f"{name(page)}:{line}"


@pytest.mark.parametrize(("page", "block"), YAML, ids=[_where(page, block.line) for page, block in YAML])
def test_yaml_is_a_declaration(page: Path, block: Any) -> None:
    for document in yaml.safe_load_all(block.text):
        kind, attributes = _declared(document)
        made = validate(kind, attributes, Source(page))
        problems = [] if isinstance(made, Limits) else made.problems()
        assert not problems, f"{_where(page, block.line)}: {problems}"


def _declared(document: Mapping[str, Any]) -> tuple[type[Any], dict[str, Any]]:
    if "type" in document:
        assert set(document) == {"type", "attributes"}
        return _KINDS[document["type"]], {**_defaults(document["type"]), **document["attributes"]}
    if set(document) <= set(TaskSpec.model_fields):
        return AgentTask, {**_TASK, **document}
    assert set(document) <= set(AgentSpec.model_fields), f"neither a task nor an agent: {sorted(document)}"
    return Agent, {**_AGENT, **document}


def _defaults(type_name: str) -> dict[str, str]:
    # The name may be that of the folder, the prompt that of a file; everything else must be there.
    if type_name.endswith("Limits"):
        return {}
    return {"name": "declared", **({"prompt": "Do it"} if type_name.endswith("Task") else {})}


@pytest.mark.parametrize("page", sorted({page for page, _ in PYTHON}), ids=name)
def test_python_of_the_reference_runs(page: Path, tmp_path: Path) -> None:
    programs = [block.text for other, block in PYTHON if other == page]
    for program in programs:
        ast.parse(program)
    environment = {"PATH": "/usr/bin:/bin", "DAGSTER_HOME": str(tmp_path), "DAGSTER_DISABLE_TELEMETRY": "1"}
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    for number, program in enumerate(programs):
        file = tmp_path / f"program_{number}.py"
        file.write_text(program)
        done = subprocess.run([sys.executable, file], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{name(page)}: {done.stderr}"


def test_the_table_of_error_classes_says_what_is_tried_again() -> None:
    text = (ROOT / "docs" / "how-to" / "retries-and-timeouts.md").read_text(encoding="utf-8")
    cells = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| `")]
    told = {row[0]: row[2].startswith("yes") for row in cells}
    assert told == {str(each): each in RetrySpec().errors for each in ErrorClass}
