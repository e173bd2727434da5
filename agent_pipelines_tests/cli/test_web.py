from pathlib import Path

import pytest

from agent_pipelines.web.server import listen
from agent_pipelines.web.token import FILE_NAME
from agent_pipelines_tests.cli.conftest import Cli


def test_web_needs_a_workspace(cli: Cli, tmp_path: Path) -> None:
    assert "there is no project here; name its directory with --project" in cli.refused("web")
    assert "there is no such file" in cli.refused("web", "--workspace", str(tmp_path / "nothing.yaml"))


def test_what_keeps_it_from_starting_is_told(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "workspace.yaml"
    file.write_text("load_from: []\n")
    with listen("127.0.0.1", 0) as taken:
        port = str(taken.getsockname()[1])
        assert "choose another with --port" in cli.refused("web", "--workspace", str(file), "--port", port, code=1)
    (cli.home / FILE_NAME).chmod(0o644)
    assert "can be read by others" in cli.refused("web", "--workspace", str(file), code=1)
    monkeypatch.setenv("AGENT_PIPELINES_API_TOKEN", "short")
    assert "the token in $AGENT_PIPELINES_API_TOKEN has 5 characters" in cli.refused("web", "--workspace", str(file), code=1)
