"""What `agent-pipelines worker` says where it cannot work."""

import sys

import pytest

from agent_pipelines_tests.cli.conftest import Cli


def test_without_the_launcher_it_says_what_to_set(cli: Cli) -> None:
    words = cli.refused("worker", code=1)
    assert "dagster.yaml" in words
    assert "class ClaimingCeleryRunLauncher" in words


def test_without_the_extra_it_says_what_to_install(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.startswith("agent_pipelines.engine.celery.")]:
        monkeypatch.delitem(sys.modules, module)
    for module in [name for name in sys.modules if name.partition(".")[0] in {"celery", "dagster_celery"}]:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, "celery", None)
    assert "pip install 'agent-pipelines[celery]'" in cli("worker").stderr
