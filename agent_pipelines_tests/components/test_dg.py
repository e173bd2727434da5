"""The commands of `dg`, on a user's project."""

import os
import subprocess
import sys
from pathlib import Path

import yaml

from agent_pipelines_tests.components.project import Project

DG = Path(sys.executable).with_name("dg")


def _dg(project: Project, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(project.root),
        "DAGSTER_DISABLE_TELEMETRY": "1",
        "COLUMNS": "400",
        "NO_COLOR": "1",
    }
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    return subprocess.run([str(DG), *arguments], cwd=project.root, env=environment, capture_output=True, text=True, check=False)


def test_a_scaffolded_project_is_whole_and_works(project: Project) -> None:
    for arguments in (["AgentTask", "digest"], ["AgentTask", "finance/balance", "--application", "finance"], ["Agent", "writer"]):
        kind, *rest = arguments
        done = _dg(project, "scaffold", "defs", f"agent_pipelines.components.{kind}", *rest)
        assert done.returncode == 0, done.stdout + done.stderr
    written = yaml.safe_load((project.defs / "finance/balance/defs.yaml").read_text())
    assert written["attributes"]["application"] == "finance"
    assert (project.defs / "digest/prompt.md").exists()
    checked = _dg(project, "check", "defs")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    listed = _dg(project, "list", "defs")
    assert "default/digest" in listed.stdout
    assert "finance/balance" in listed.stdout


def test_a_task_of_python_code_can_be_scaffolded(project: Project) -> None:
    done = _dg(project, "scaffold", "defs", "agent_pipelines.components.AgentTask", "hello", "--format", "python")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list(project.load().assets or ())) == 1 + 2  # and the ticks, and the registered tasks


def test_the_components_are_listed(project: Project) -> None:
    listed = _dg(project, "list", "components")
    assert "agent_pipelines.components.AgentTask" in listed.stdout
    assert "agent_pipelines.components.Agent " in listed.stdout


def test_check_yaml_names_file_line_and_field(project: Project) -> None:
    attributes = "promt: Hello\ntriggers:\n  - kind: cron\n    corn: 0 6 * * *\nretry:\n  max_attempts: many\n"
    checked = _dg(project.agent().task("digest", attributes), "check", "yaml")
    assert checked.returncode != 0
    for line, field, words in (
        (5, "attributes.promt", "'promt' was unexpected"),
        (8, "attributes.triggers.0.corn", "'corn' was unexpected"),
        (10, "attributes.retry.max_attempts", "'many' is not of type 'integer'"),
    ):
        [told] = [each for each in checked.stdout.splitlines() if f" {field} " in each]
        assert f"{project.package}/defs/digest/defs.yaml:{line} - " in told
        assert words in told


def test_check_defs_tells_all_problems_with_file_field_and_fix(project: Project) -> None:
    project.agent().task("digest", "triggers:\n  - kind: cron\n    cron: 0 6 * *\n").task("report", agent="wirter")
    project.task("ledger", prompt="{{ nowhere }}")
    checked = _dg(project, "check", "defs")
    assert checked.returncode != 0
    told = checked.stdout + checked.stderr
    assert f"{project.package}/defs/digest/defs.yaml:7, field `triggers[0].cron`: '0 6 * *' has 4 fields; write five" in told
    assert f"{project.package}/defs/ledger/prompt.md, field `prompt`: line 1: `nowhere` is not a name" in told
