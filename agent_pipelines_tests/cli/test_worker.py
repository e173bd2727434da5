"""What `agent-pipelines worker` says where it cannot work."""

import sys
from pathlib import Path

import pytest

from agent_pipelines_tests.cli.conftest import Cli


def test_without_the_launcher_it_says_what_to_set(cli: Cli) -> None:
    words = cli.refused("worker", code=1)
    assert "dagster.yaml" in words
    assert "class ClaimingCeleryRunLauncher" in words


@pytest.mark.parametrize("command", ["worker", "daemon"])
def test_a_mistake_in_the_settings_of_the_launcher_is_one_line(command: str, tmp_path: Path) -> None:
    (tmp_path / "workspace.yaml").write_text("load_from: []\n")
    arguments = [] if command == "worker" else ["--workspace", str(tmp_path / "workspace.yaml")]
    for config, words in (
        ("lease: -3", "dagster.yaml, field `run_launcher.config.lease`: -3 is not above zero"),
        ("local_workers: -1", "dagster.yaml, field `run_launcher.config.local_workers`: -1 is below zero"),
        ("leese: 3", 'dagster.yaml: Dagster cannot use these settings: Received unexpected config entry "leese"'),
    ):
        home = tmp_path / config.partition(":")[0]
        home.mkdir()
        launcher = "{module: agent_pipelines.engine.celery, class: ClaimingCeleryRunLauncher, config: {default_queue: d, %s}}"
        (home / "dagster.yaml").write_text(f"telemetry: {{enabled: false}}\nrun_launcher: {launcher % config}\n")
        told = Cli(home).refused(command, *arguments, code=1)
        assert words in told
        assert "Traceback" not in told


def test_without_the_extra_it_says_what_to_install(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.startswith("agent_pipelines.engine.celery.")]:
        monkeypatch.delitem(sys.modules, module)
    for module in [name for name in sys.modules if name.partition(".")[0] in {"celery", "dagster_celery"}]:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, "celery", None)
    assert "pip install 'agent-pipelines[celery]'" in cli("worker").stderr
