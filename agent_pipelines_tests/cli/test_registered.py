import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from agent_pipelines.core.execution import Verdict
from agent_pipelines.engine.place import database_url
from agent_pipelines.hub import Hub, open_hub
from agent_pipelines_tests.cli.conftest import Cli
from agent_pipelines_tests.cli.test_task import ACTOR
from agent_pipelines_tests.components.project import Project

WATCH = """
name: watch
application: inbox
intent: Watch the inbox
agent: writer
prompt: Watch it
triggers:
- {kind: interval, every: 30s}
"""
DECLARED = """
application: reports
triggers:
- {kind: cron, cron: "0 6 * * *"}
- {kind: event, event: day.closed, enabled: false}
"""


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """A project with one task and its agent."""
    made = Project(tmp_path / "project").agent().task("digest", DECLARED)
    yield made
    made.close()


@pytest.fixture
def cli_in(cli: Cli, project: Project, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """The command line in the project, where a file with a task lies."""
    monkeypatch.chdir(project.root)
    (project.root / "watch.yaml").write_text(WATCH)
    return cli


@pytest.fixture
def hub(cli: Cli) -> Hub:
    """The nouns of the deployment that the commands work on."""
    with dg.DagsterInstance.from_config(str(cli.home)) as instance:
        return open_hub(database_url(instance))


def many(root: Path, count: int) -> Path:
    file = root / "many.jsonl"
    spec = {"application": "inbox", "intent": "Watch", "agent": "writer", "prompt": "Watch it"}
    file.write_text("".join(json.dumps({**spec, "name": f"t{number:03}"}) + "\n" for number in range(count)))
    return file


def entries(cli: Cli, path: str) -> list[tuple[str, str]]:
    return [(entry["action"], entry["actor"]) for entry in cli.json("audit", "list", "--object", path)["entries"]]


def test_a_task_is_registered_listed_and_shown(cli_in: Cli) -> None:
    done = cli_in("task", "register", "watch.yaml")
    assert done.exit_code == 0, done.output
    assert done.stdout.split() == ["task", "version", "state", "what", "inbox/watch", "1", "enabled", "new"]
    assert "no daemon keeps the time, so nothing is due yet" in done.stderr
    (watch,) = (task for task in cli_in.json("task", "list")["tasks"] if task["task"] == "watch")
    assert watch["registered"] == {"version": 1, "state": "enabled", "reason": None}
    assert watch["found_in"] == f"registered, version 1 by {ACTOR}"
    assert [trigger["words"] for trigger in watch["triggers"]] == ["every 30s"]
    assert watch["next_due"] is not None
    assert "registered, version 1" in cli_in.ok("task", "list")
    shown = cli_in.json("task", "show", "watch")
    assert (shown["spec"]["lane"], shown["spec"]["prompt"]) == ("burst", "Watch it")
    assert f"registered, version 1 by {ACTOR}" in cli_in.ok("task", "show", "inbox/watch")
    assert entries(cli_in, "inbox/watch") == [("task.register", ACTOR)]


def test_registering_again_makes_a_version_only_for_a_change(cli_in: Cli, project: Project) -> None:
    cli_in.ok("task", "register", "watch.yaml")
    assert "as it was" in cli_in.ok("task", "register", "watch.yaml")
    changed = WATCH.replace("Watch it", "Look at it")
    assert "new version" in cli_in.ok("task", "register", "-", input=changed)
    versions = cli_in.json("task", "versions", "watch")["versions"]
    assert [(version["version"], version["actor"]) for version in versions] == [(2, ACTOR), (1, ACTOR)]
    difference = cli_in.ok("task", "diff", "watch")
    assert "-prompt: Watch it" in difference
    assert "+prompt: Look at it" in difference
    assert cli_in("task", "diff", "watch", "2", "2").stderr == "no difference\n"
    assert cli_in.json("task", "diff", "watch", "1", "2")["old"] == 1
    assert "has no version 7; it has versions 1 to 2" in cli_in.refused("task", "diff", "watch", "7")


@pytest.mark.parametrize("form", ["list", "documents", "json", "jsonl"])
def test_files_may_hold_several_tasks(cli_in: Cli, project: Project, form: str) -> None:
    specs = [{"name": name, "intent": "Work", "agent": "writer", "prompt": "Work"} for name in ("a", "b")]
    whole = json.dumps(specs) if form in ("list", "json") else "\n---\n".join(json.dumps(each) for each in specs)
    if form == "jsonl":
        whole = "\n\n".join(json.dumps(each) for each in specs)
    file = project.root / {"json": "tasks.json", "jsonl": "tasks.jsonl"}.get(form, "tasks.yaml")
    file.write_text(whole)
    arguments = ("--from-jsonl", str(file)) if form == "jsonl" else (str(file),)
    told = cli_in.json("task", "register", *arguments)["tasks"]
    assert [(task["application"], task["task"], task["version"], task["new"]) for task in told] == [
        ("default", "a", 1, True),
        ("default", "b", 1, True),
    ]


def test_many_tasks_are_told_in_one_line_and_listed_in_pages(cli_in: Cli, project: Project) -> None:
    file = str(many(project.root, 60))
    assert cli_in.ok("task", "register", "--from-jsonl", file) == "60 registered, 0 as they were\n"
    assert cli_in.ok("task", "register", "--from-jsonl", file) == "0 registered, 60 as they were\n"
    first = cli_in.json("task", "list", "--limit", "40")
    assert [task["task"] for task in first["tasks"]][:2] == ["digest", "t000"]
    assert (len(first["tasks"]), first["next_after"]) == (41, "inbox/t039")
    rest = cli_in.json("task", "list", "--limit", "40", "--after", first["next_after"])
    assert (next(task["task"] for task in rest["tasks"]), len(rest["tasks"]), rest["next_after"]) == ("t040", 20, None)
    assert [task["task"] for task in cli_in.json("task", "list", "--text", "t05", "--agent", "writer")["tasks"]][::9] == [
        "t050",
        "t059",
    ]
    assert cli_in.json("task", "list", "--agent", "nobody")["tasks"] == []
    assert "no task is named 't01'; did you mean" in cli_in.refused("task", "show", "t01")


def test_what_is_wrong_is_told_with_its_place(cli_in: Cli, project: Project) -> None:
    file = project.root / "wrong.yaml"
    file.write_text(WATCH + "colour: red\n---\n" + WATCH.replace("every: 30s", "every: 0s"))
    told = cli_in("task", "register", "wrong.yaml")
    assert told.exit_code == 1
    assert "- wrong.yaml, document 1, field `colour`: `colour` is not a field here" in told.stderr
    assert "- wrong.yaml, document 2, field `triggers[0].every`: every 0 s is too short" in told.stderr
    file.write_text(WATCH.replace("writer", "wrighter"))
    words = "wrong.yaml, field `agent`: no agent `wrighter` is declared. Did you mean `writer`?"
    assert cli_in.refused("task", "register", "wrong.yaml", code=1) == words
    file.write_text(WATCH.replace("watch", "digest").replace("inbox\n", "reports\n"))
    assert "task reports/digest is declared in the project" in cli_in.refused("task", "register", "wrong.yaml", code=1)
    file.write_text("a: [")
    assert "wrong.yaml is neither YAML nor JSON" in cli_in.refused("task", "register", "wrong.yaml")
    file.write_text("{}\n{\n")
    assert "wrong.yaml:2 is not JSON" in cli_in.refused("task", "register", "--from-jsonl", "wrong.yaml")
    assert "nowhere.yaml cannot be read" in cli_in.refused("task", "register", "nowhere.yaml")
    assert "there is nothing to register" in cli_in.refused("task", "register")
    assert cli_in.json("task", "list", "--state", "enabled")["tasks"] == []


def test_a_task_is_switched(cli_in: Cli) -> None:
    cli_in.ok("task", "register", "watch.yaml")
    assert cli_in.ok("task", "pause", "watch", "--reason", "holidays") == "inbox/watch: paused, holidays\n"
    assert "every 30s (paused)" in cli_in.ok("task", "list")
    assert "registered, version 1, paused" in cli_in.ok("task", "list")
    assert "paused: holidays" in cli_in.ok("task", "show", "watch")
    assert cli_in.json("task", "show", "watch")["registered"]["reason"] == "holidays"
    assert cli_in.ok("task", "resume", "watch") == "inbox/watch: enabled\n"
    assert "task inbox/watch is enabled, not paused" in cli_in.refused("task", "resume", "watch", code=1)
    assert cli_in.json("task", "disable", "watch")["task"]["state"] == "disabled"
    assert "every 30s (off)" in cli_in.ok("task", "list", "--state", "disabled")
    assert cli_in.ok("task", "enable", "watch") == "inbox/watch: enabled\n"
    assert cli_in.ok("task", "remove", "inbox/watch") == "inbox/watch: removed\n"
    assert "no task is named 'watch'" in cli_in.refused("task", "show", "watch")
    history = cli_in.json("task", "history", "inbox/watch")["history"]
    assert [each["state"] for each in reversed(history)] == ["on", "paused", "on", "off", "on", "removed"]
    assert {(each["trigger"], each["words"], each["actor"]) for each in history} == {("interval", "every 30s", ACTOR)}
    assert "holidays" in cli_in.ok("task", "history", "inbox/watch", "--before", str(history[3]["seq"]))
    told = [action for action, _ in reversed(entries(cli_in, "inbox/watch"))]
    assert told == [f"task.{verb}" for verb in ("register", "pause", "resume", "disable", "enable", "remove")]


def test_the_triggers_of_a_declared_task_are_paused(cli_in: Cli, hub: Hub) -> None:
    assert cli_in.ok("task", "pause", "digest", "--reason", "holidays") == "reports/digest: paused cron\n"
    (digest,) = cli_in.json("task", "list")["tasks"]
    assert [(trigger["on"], trigger["paused"], trigger["next_due"]) for trigger in digest["triggers"]] == [
        (False, "holidays", None),
        (False, None, None),
    ]
    with hub.database.reading() as connection:
        (stored,) = hub.triggers.list(connection)
    assert (stored.source, stored.state, stored.reason, stored.lane) == ("declared", "paused", "holidays", "run")
    assert cli_in.ok("task", "resume", "digest") == "reports/digest: resumed cron\n"
    with hub.database.reading() as connection:
        (stored,) = hub.triggers.list(connection)
    assert (stored.state, stored.reason) == ("on", None)
    assert "task reports/digest is not paused" in cli_in.refused("task", "resume", "digest", code=1)
    assert entries(cli_in, "reports/digest") == [("task.resume", ACTOR), ("task.pause", ACTOR)]


@pytest.mark.parametrize("verb", ["enable", "disable", "remove", "versions", "diff"])
def test_a_declared_task_is_changed_in_its_project(cli_in: Cli, verb: str) -> None:
    assert "task reports/digest is declared in the project; " in cli_in.refused("task", verb, "digest")


def test_run_leaves_a_tick_for_a_burst(cli_in: Cli) -> None:
    cli_in.ok("task", "register", "watch.yaml")
    done = cli_in("task", "run", "watch", "--var", "topic=x", "--logical-time", "2026-01-02T03:04:05Z", "--wait")
    assert done.exit_code == 1
    assert "no daemon starts bursts" in done.stderr
    tick_id, words = done.stdout.splitlines()
    assert words == "no verdict: no burst has taken the tick"
    (tick,) = cli_in.json("tick", "list")["ticks"]
    assert (tick["id"], tick["lane"], tick["origin"], tick["actor"]) == (tick_id, "burst", "on_demand", ACTOR)
    assert (tick["inputs"], tick["logical_at"]) == ({"variables": {"topic": "x"}}, "2026-01-02T03:04:05Z")


def test_run_waits_for_the_verdict(cli_in: Cli, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    cli_in.ok("task", "register", "watch.yaml")
    with hub.database.transaction() as connection:
        hub.daemons.beat(connection, "a daemon", "leader")
    slept: list[float] = []

    def burst(seconds: float) -> None:
        # What a burst would do while the command waits.
        slept.append(seconds)
        with hub.database.transaction() as connection:
            for tick in hub.ticks.take(connection, lane="burst", until=hub.clock.now(), limit=10, run_id="burst"):
                hub.ticks.decide(
                    connection, tick.task_key, tick.trigger, tick.occurrence, Verdict.SKIPPED, reason="nothing to do"
                )

    monkeypatch.setattr("time.sleep", burst)
    told: dict[str, Any] = cli_in.json("task", "run", "watch", "--wait")
    assert slept
    assert (told["verdict"], told["succeeded"], told["run_id"]) == ("skipped", True, "burst")


def test_registering_needs_a_project(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "watch.yaml").write_text(WATCH)
    assert "there is no project here; name the directory" in cli.refused("task", "register", "watch.yaml")
