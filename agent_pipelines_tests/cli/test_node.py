from pathlib import Path

import dagster as dg
import pytest

from agent_pipelines.engine.place import database_url
from agent_pipelines.hub import open_hub
from agent_pipelines_tests.cli.conftest import Cli


def test_nodes_are_registered_drained_and_removed(cli: Cli) -> None:
    told = cli.json("node", "register", "local", "berlin", "--capacity", "4", "--label", "gpu=yes")["node"]
    assert (told["state"], told["capacity"], told["labels"]) == ("silent", 4, {"gpu": "yes"})
    assert "berlin" in cli.ok("node", "list")
    assert cli.json("node", "drain", "local", "berlin")["node"]["draining_at"] is not None
    assert cli.json("node", "resume", "local", "berlin")["node"]["draining_at"] is None
    assert "gpu=yes" in cli.ok("node", "show", "local", "berlin")
    shown = cli.json("agent", "show", "local")
    assert (shown["agent"]["is_available"], shown["agent"]["nodes"][0]["reason"]) == (False, "has not been heard of")
    assert cli.json("agent", "list")["agents"][0]["agent"] == "local"
    assert "no" in cli.ok("agent", "list")
    cli.ok("node", "remove", "local", "berlin")
    assert cli.json("node", "list") == {"nodes": []}
    assert cli.refused("node", "show", "local", "berlin", code=1) == "agent 'local' has no node 'berlin'"
    assert cli.refused("agent", "show", "local").startswith("no agent is named 'local'")


def test_what_cannot_work_is_refused_in_a_line(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    always = ("node", "run", "--agent", "local", "--name", "a", "--url", "http://127.0.0.1:1")
    assert "hand its work on" in cli.refused(*always, "--runtime", "node")
    assert "AGENT_PIPELINES_API_TOKEN is not set" in cli.refused(*always, "--runtime", "fake", code=1)
    assert "is not name=value" in cli.refused("node", "register", "local", "a", "--label", "gpu")
    file = tmp_path / "settings.yaml"
    file.write_text("replies: [1")
    assert str(file) in cli.refused(*always, "--runtime", "fake", "--config", str(file))
    file.write_text("reply: no such setting")
    assert "has no such setting" in cli.refused(*always, "--runtime", "fake", "--config", str(file), code=1)


def test_status_tells_of_an_agent_that_is_not_available(cli: Cli) -> None:
    cli.ok("node", "register", "local", "berlin")
    with dg.DagsterInstance.from_config(str(cli.home)) as instance:
        open_hub(database_url(instance)).fleet_watch.look()
    done = cli("status")
    assert "agent local is not available since" in done.output
