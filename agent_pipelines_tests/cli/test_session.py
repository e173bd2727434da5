from agent_pipelines_tests.cli.conftest import Cli
from agent_pipelines_tests.insight.filled import DIGEST, Filled


def test_sessions_with_their_turns(cli: Cli, record: Filled) -> None:
    assert cli.json("session", "list") == {"sessions": [], "next_before": None}
    record.everything()
    sessions = cli.json("session", "list")["sessions"]
    assert [(session["mode"], session["agent"], session["turns"]) for session in sessions] == [
        ("fresh", "inspector", 0),
        ("fresh", "inspector", 1),
        ("task", "writer", 3),
    ]
    assert cli.json("session", "list", "--mode", "task", "--agent", "writer")["sessions"] == sessions[2:]
    assert cli.json("session", "list", "--name", "reports/digest")["sessions"] == sessions[2:]
    first = cli.json("session", "list", "--limit", "2")
    assert cli.json("session", "list", "--before", str(first["next_before"]))["sessions"] == sessions[2:]
    assert "reports/digest" in cli.ok("session", "list")


def test_show_tells_what_was_said(cli: Cli, record: Filled) -> None:
    record.execute(DIGEST, "First answer.")
    record.execute(DIGEST, "Second answer.")
    id = cli.json("session", "list")["sessions"][0]["id"]
    shown = cli.ok("session", "show", id)
    assert shown.index("First answer.") < shown.index("Second answer.")
    assert "user: Sum up 2026" in shown
    page = cli.json("session", "show", id, "--limit", "1")
    assert [turn["assistant"] for turn in page["turns"]] == ["Second answer."]
    assert page["session"]["turns"] == 2
    older = cli.json("session", "show", id, "--limit", "1", "--before", str(page["next_before"]))
    assert [turn["assistant"] for turn in older["turns"]] == ["First answer."]
    assert "there is no session 'nothing'" in cli.refused("session", "show", "nothing")
