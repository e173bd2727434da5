import getpass

import pytest

from agent_pipelines_tests.cli.conftest import Cli
from agent_pipelines_tests.insight.filled import DIGEST, Filled

CHANGED = DIGEST.model_copy(update={"prompt": "Sum up briefly\n{{ logical_time }}", "parameters": {"temperature": 0}})


@pytest.fixture
def versions(record: Filled) -> list[str]:
    """Two versions of the digest's prompt, the older one first."""
    record.execute(DIGEST, "One.")
    record.clock.time += 1
    record.execute(CHANGED, "Two.")
    with record.hub.database.reading() as connection:
        return [version.version for version in record.hub.prompts.versions(connection, DIGEST.key)][::-1]


def stable(cli: Cli) -> str:
    return cli.json("prompt", "show", "digest")["version"]["version"]


def test_history(cli: Cli, versions: list[str]) -> None:
    moves = cli.json("prompt", "history", "digest")["moves"]
    assert [(move["version"]["version"], move["previous"], move["actor"]) for move in moves] == [
        (versions[1], versions[0], "git"),
        (versions[0], None, "git"),
    ]
    assert set(moves[0]) == {"seq", "channel", "previous", "version", "actor", "reason", "moved_at"}
    page = cli.json("prompt", "history", "digest", "--limit", "1")
    assert cli.json("prompt", "history", "digest", "--before", str(page["next_before"]))["moves"] == moves[1:]
    shown = cli.ok("prompt", "history", "reports/digest")
    assert versions[0][:12] in shown
    assert "file changed" in shown


def test_show(cli: Cli, versions: list[str]) -> None:
    assert stable(cli) == versions[1]
    assert cli.json("prompt", "show", "digest", versions[0][:6])["version"]["prompt"] == DIGEST.prompt
    shown = cli.ok("prompt", "show", "digest")
    assert "Sum up briefly\n{{ logical_time }}" in shown
    assert '{"temperature": 0}' in shown
    assert cli.json("prompt", "show", "digest", "--channel", "canary")["version"] is None
    assert "has no prompt version 'abc'" in cli.refused("prompt", "show", "digest", "abc", code=1)


def test_diff(cli: Cli, versions: list[str]) -> None:
    words = cli.ok("prompt", "diff", "digest", versions[0][:8])
    assert "-  Sum up {{ logical_time }}" in words
    assert "+  Sum up briefly" in words
    assert cli.json("prompt", "diff", "digest", *versions)["diff"] in words
    assert cli.json("prompt", "diff", "digest", versions[1])["diff"] == ""


def test_rollback_leaves_who_and_why(cli: Cli, versions: list[str]) -> None:
    told = cli.ok("prompt", "rollback", "digest", "--reason", "worse answers")
    assert told == f"stable: {versions[1][:12]} -> {versions[0][:12]}\n"
    assert stable(cli) == versions[0]
    entry = cli.json("audit", "list")["entries"][0]
    actor = f"cli:{getpass.getuser()}"
    assert (entry["actor"], entry["action"], entry["object"]) == (actor, "prompt.rollback", "reports/digest")
    details = {"channel": "stable", "from": versions[1], "to": versions[0], "reason": "worse answers"}
    assert entry["details"] == details
    assert cli.json("prompt", "history", "digest")["moves"][0]["actor"] == actor


def test_move(cli: Cli, versions: list[str]) -> None:
    move = cli.json("prompt", "move", "digest", versions[0][:10])["move"]
    assert (move["version"]["version"], move["previous"]) == (versions[0], versions[1])
    cli.ok("prompt", "move", "digest", versions[1][:10], "--channel", "canary")
    assert stable(cli) == versions[0]
    assert [entry["action"] for entry in cli.json("audit", "list")["entries"]] == ["prompt.move", "prompt.move"]


def test_a_refused_move_leaves_no_trace(cli: Cli, versions: list[str]) -> None:
    assert "points at" in cli.refused("prompt", "move", "digest", versions[1], code=1)
    cli.ok("prompt", "rollback", "digest")
    assert "has no version before the current one" in cli.refused("prompt", "rollback", "digest", code=1)
    assert "is not one of 'stable', 'canary', 'holdback'" in cli.refused("prompt", "move", "digest", "a", "--channel", "beta")
    assert len(cli.json("audit", "list")["entries"]) == 1


def test_a_mistyped_task_is_named(cli: Cli, versions: list[str]) -> None:
    assert "no task is named 'digset'; did you mean reports/digest?" in cli.refused("prompt", "history", "digset")
