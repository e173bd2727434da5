import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agent_pipelines.cli.main import app


def _init(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["init", *arguments])
    return done.exit_code, done.output


def test_a_new_project_loads_with_its_task_on_a_schedule(tmp_path: Path) -> None:
    code, output = _init("nightly-agents", "--directory", str(tmp_path))
    assert code == 0, output
    project = tmp_path / "nightly-agents"
    listing = (
        "from nightly_agents.definitions import defs; loaded = defs(); "
        "print(sorted(s.name for s in loaded.schedules), [s.cron_schedule for s in loaded.schedules], sorted(loaded.resources))"
    )
    done = subprocess.run([sys.executable, "-c", listing], cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['nightly_agents__hello__morning'] ['0 6 * * *'] ['agent_offline']"
    assert (project / "dagster.yaml").read_text().strip()


def test_what_exists_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    code, output = _init("mine", "--directory", str(tmp_path))
    assert (code, list((tmp_path / "mine").iterdir())) == (2, [])
    assert "exists; choose another name" in output


@pytest.mark.parametrize("name", ["Nightly", "9lives", "a b", "../up", ""])
def test_a_name_that_is_no_package_is_refused(tmp_path: Path, name: str) -> None:
    code, output = _init(name, "--directory", str(tmp_path))
    assert code == 2
    assert "no project name" in output
