import getpass
from pathlib import Path

import pytest

from agent_pipelines_tests.cli.conftest import Cli


def test_an_event_arrives_once(cli: Cli) -> None:
    sent = cli.ok("event", "send", "commit.pushed", "--data", '{"branch": "main"}', "--key", "4f2a")
    id, word = sent.split()
    assert word == "new"
    assert cli.ok("event", "send", "commit.pushed", "--key", "4f2a").split() == [id, "known", "already"]
    assert cli.json("event", "send", "commit.pushed", "--key", "4f2a", "--source", "hook")["new"] is True
    events = cli.json("event", "list")["events"]
    assert len(events) == 2
    oldest = events[1]
    assert set(oldest) == {"seq", "id", "workspace", "type", "source", "key", "payload", "actor", "received_at"}
    assert (oldest["payload"], oldest["source"], oldest["actor"]) == ({"branch": "main"}, "cli", f"cli:{getpass.getuser()}")
    assert cli.json("event", "list", "--source", "cli")["events"] == [oldest]
    assert cli.json("event", "list", "--type", "other")["events"] == []
    assert "commit.pushed" in cli.ok("event", "list")


def test_what_was_new_is_audited(cli: Cli) -> None:
    for _ in range(2):
        cli.ok("event", "send", "commit.pushed", "--key", "4f2a")
    entries = cli.json("audit", "list")["entries"]
    assert [(entry["action"], entry["object"]) for entry in entries] == [("event.send", "commit.pushed")]


def test_the_payload_comes_from_a_file_or_standard_input(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "payload.json"
    file.write_text('{"total": 3, "name": "Äpfel"}')
    cli.ok("event", "send", "a", "--data-file", str(file))
    cli.ok("event", "send", "b", "--data-file", "-", input='{"total": 4}')
    payloads = [event["payload"] for event in cli.json("event", "list")["events"]]
    assert payloads == [{"total": 4}, {"total": 3, "name": "Äpfel"}]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data", "[1]"], "--data is not a JSON object"),
        (["--data", "{'a': 1}"], "--data is not JSON"),
        (["--data-file", "nowhere.json"], "--data-file nowhere.json"),
        (["--data", "{}", "--data-file", "x"], "--data and --data-file cannot go together"),
    ],
)
def test_a_payload_that_cannot_be_read_is_refused(cli: Cli, arguments: list[str], words: str) -> None:
    assert words in cli.refused("event", "send", "a", *arguments)
    assert cli.json("event", "list")["events"] == []


def test_pages(cli: Cli) -> None:
    for number in range(5):
        cli.ok("event", "send", "a", "--key", str(number))
    first = cli.json("event", "list", "--limit", "3")
    rest = cli.json("event", "list", "--limit", "3", "--before", str(first["next_before"]))
    assert [event["key"] for event in first["events"] + rest["events"]] == ["4", "3", "2", "1", "0"]
    page = cli.json("audit", "list", "--limit", "2", "--action", "event.send", "--object", "a")
    assert cli.json("audit", "list", "--before", str(page["next_before"]))["entries"][0]["seq"] == 3
