import getpass
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from agent_pipelines.engine.gateway import DagsterGateway
from agent_pipelines.engine.launch import Launch
from agent_pipelines.engine.workspace import Workspace
from agent_pipelines_tests.cli.conftest import Cli
from agent_pipelines_tests.components.project import AGENT, Project
from agent_pipelines_tests.engine.project import daemon
from agent_pipelines_tests.insight.filled import DIGEST, Filled

DECLARED = """
application: reports
variables: {topic: the day}
session: {mode: task}
triggers:
- {kind: cron, cron: "0 6 * * *"}
- {kind: event, event: day.closed}
"""
ACTOR = f"cli:{getpass.getuser()}"


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """A project with two tasks and their agent, who repeats what it is asked."""
    made = Project(tmp_path / "project").agent()
    made.task("digest", DECLARED, prompt="Sum up {{ topic }} of {{ logical_time }}").task("mail", "application: reports")
    yield made
    made.close()


@pytest.fixture
def cli_in(cli: Cli, project: Project, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """The command line in a directory of the project."""
    monkeypatch.chdir(project.defs)
    return cli


def instance_of(cli: Cli) -> dg.DagsterInstance:
    return dg.DagsterInstance.from_config(str(cli.home))


def test_declared_tasks_are_listed_before_they_ran(cli_in: Cli) -> None:
    tasks = cli_in.json("task", "list")["tasks"]
    assert [(task["application"], task["task"], task["agent"], task["declared"]) for task in tasks] == [
        ("reports", "digest", "writer", True),
        ("reports", "mail", "writer", True),
    ]
    digest = tasks[0]
    assert [(trigger["name"], trigger["words"], trigger["on"]) for trigger in digest["triggers"]] == [
        ("cron", "cron 0 6 * * *", True),
        ("event", "event day.closed", True),
    ]
    assert digest["next_due"].endswith("T06:00:00Z")
    assert digest["found_in"].endswith("defs/digest/defs.yaml:2")
    assert digest["prompt_in"].endswith("defs/digest/prompt.md")
    assert digest["last_execution"] is None
    shown = cli_in.ok("task", "list")
    assert "cron 0 6 * * *, event day.closed" in shown
    assert "on demand" in shown
    assert cli_in.json("task", "list", "--application", "other")["tasks"] == []


def test_the_list_tells_the_last_execution(cli_in: Cli, record: Filled) -> None:
    results = record.everything()
    tasks = {task["task"]: task for task in cli_in.json("task", "list")["tasks"]}
    assert tasks["digest"]["last_execution"]["id"] == results[2].execution_id
    assert tasks["mail"]["last_execution"] is None
    # What is not declared any more is listed besides, and nothing is promised for it.
    assert (tasks["checker"]["declared"], tasks["checker"]["last_execution"]["status"]) == (False, "skipped")
    assert tasks["checker"]["found_in"] == f"execution {results[5].execution_id}"


def test_without_a_project_the_record_is_asked(cli: Cli, record: Filled) -> None:
    done = cli("task", "list")
    assert (done.stdout, done.exit_code) == ("no tasks\n", 0)
    assert "there is no project here" in done.stderr
    record.everything()
    tasks = cli.json("task", "list")["tasks"]
    assert [task["task"] for task in tasks] == ["checker", "digest"]
    assert [trigger["on"] for trigger in tasks[1]["triggers"]] == [None, None]


def test_a_schedule_that_is_switched_off_is_not_due(cli_in: Cli, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.root)
    with instance_of(cli_in) as instance, Workspace.of_directory(instance, project.root) as workspace:
        DagsterGateway(instance, workspace.locations).set_schedule("reports__digest__cron", False)
    digest = cli_in.json("task", "list")["tasks"][0]
    assert [trigger["on"] for trigger in digest["triggers"]] == [False, True]
    assert digest["next_due"] is None
    assert "cron 0 6 * * * (off)" in cli_in.ok("task", "list")


def test_show(cli_in: Cli, record: Filled) -> None:
    shown = cli_in.ok("task", "show", "digest")
    for words in ("reports/digest", "Sum up the day", "Sum up {{ topic }}", "topic: the day", "none yet", "defs.yaml:2"):
        assert words in shown
    assert shown.index("topic: the day") < shown.index("specification, by default") < shown.index("max_attempts: 3")
    record.everything()
    found = cli_in.json("task", "show", "reports/digest")
    assert found["spec"]["variables"] == {"topic": "the day"}
    assert len(found["spec_hash"]) == len(found["prompt_version"]) == 64
    assert [session["name"] for session in found["sessions"]] == ["reports/digest"]
    assert found["state"] == {}
    checker = cli_in.json("task", "show", "checker")
    assert (checker["state"], checker["declared"]) == ({"baseline": 7}, False)


def test_a_name_that_is_not_unique_or_not_known_is_refused(cli_in: Cli, project: Project) -> None:
    project.file("other/defs.yaml", (project.defs / "mail" / "defs.yaml").read_text().replace("reports", "other\n  name: mail"))
    assert cli_in.refused("task", "show", "mail") == "several tasks are named 'mail': write other/mail or reports/mail"
    assert cli_in.json("task", "show", "other/mail")["application"] == "other"
    assert "no task is named 'digset'; did you mean reports/digest?" in cli_in.refused("task", "show", "digset")
    assert "no task is named 'digest2'" in cli_in.refused("task", "run", "digest2")


def test_a_broken_declaration_is_named(cli_in: Cli, project: Project) -> None:
    file = project.defs / "mail" / "defs.yaml"
    good = file.read_text()
    file.write_text(good + "\n  colour: red\n")
    assert re.match(r"project_.*/defs/mail/defs.yaml:\d+, field `colour`: ", cli_in.refused("task", "list", code=1))
    file.write_text(good + " : :\n")
    assert "the tasks cannot be loaded: ScannerError" in cli_in.refused("task", "list", code=1)
    file.write_text(good)
    project.file("own.py", "import agent_pipelines\n\nprint('loading')\nraise RuntimeError('out of order')\n")
    done = cli_in("task", "list")
    assert (done.exit_code, done.stdout) == (1, "")
    assert re.search(r"^error: .*RuntimeError: out of order \(.*own.py:4\)$", done.stderr, re.MULTILINE)


def test_run_queues_a_run_and_leaves_a_tick_and_who_asked(cli_in: Cli) -> None:
    variables = ("--var", "topic=the night", "--var", "limit=3")
    done = cli_in("task", "run", "digest", *variables, "--logical-time", "2026-01-02T03:04:05Z")
    assert done.exit_code == 0
    run_id = done.stdout.strip()
    assert "nothing takes runs out of the queue: start `agent-pipelines up`" in done.stderr
    with instance_of(cli_in) as instance:
        run = instance.get_run_by_id(run_id)
        assert run is not None
        assert run.status is dg.DagsterRunStatus.QUEUED
        assert run.job_name == "reports__digest"
        launch = Launch.from_tags(run.tags)
    assert launch is not None
    assert (launch.task, launch.trigger, launch.occurrence, launch.actor) == ("reports/digest", "on_demand", run_id, ACTOR)
    assert launch.variables == {"topic": "the night", "limit": 3}
    (tick,) = cli_in.json("tick", "list")["ticks"]
    assert (tick["run_id"], tick["verdict"], tick["origin"], tick["actor"]) == (run_id, None, "on_demand", ACTOR)
    assert tick["logical_at"] == "2026-01-02T03:04:05Z"
    (entry,) = cli_in.json("audit", "list")["entries"]
    assert (entry["action"], entry["object"], entry["details"]) == ("task.run", "reports/digest", {"run_id": run_id})


def test_waiting_where_nothing_works_fails(cli_in: Cli) -> None:
    done = cli_in("task", "run", "digest", "--wait")
    assert done.exit_code == 1
    assert "no verdict: the Dagster run is not over" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--var", "topic"], "--var 'topic' is not name=value"),
        (["--var", "a-b=1"], "--var 'a-b=1' is not name=value"),
        (["--logical-time", "soon"], "--logical-time 'soon' is no instant"),
    ],
)
def test_bad_input_launches_nothing(cli_in: Cli, arguments: list[str], words: str) -> None:
    assert words in cli_in.refused("task", "run", "digest", *arguments)
    assert cli_in.json("tick", "list")["ticks"] == []


def test_a_launch_that_dagster_refuses_is_told_to_the_tick(cli_in: Cli) -> None:
    settings = cli_in.home / "dagster.yaml"
    coordinator = "run_coordinator: {module: dagster._core.run_coordinator, class: DefaultRunCoordinator}\n"
    settings.write_text("telemetry: {enabled: false}\n" + coordinator)
    assert "runs are not queued" in cli_in.refused("task", "run", "digest", code=1)
    (tick,) = cli_in.json("tick", "list")["ticks"]
    assert tick["verdict"] == "launch_failed"
    assert "runs are not queued" in tick["reason"]


def test_run_needs_a_project(cli: Cli, record: Filled) -> None:
    record.execute(DIGEST, "One.")
    assert "there is no project here; name the directory" in cli.refused("task", "run", "digest")
    assert "no pyproject.toml with a [tool.dg] table" in cli.refused("--project", str(cli.home), "task", "list")


def test_run_and_wait_for_the_verdict(cli_in: Cli, project: Project) -> None:
    workspace = project.root / "workspace.yaml"
    module = f"{project.package}.definitions"
    workspace.write_text(f"load_from:\n- python_module: {{module_name: {module}, working_directory: {project.root}}}\n")
    project.agent("refusing", AGENT + "  config: {fail_times: 9}\n")
    project.task("refused", "application: reports\nretry: {max_attempts: 1}", agent="refusing")
    run: list[str] = ["task", "run", "digest", "--var", "topic=the night", "--logical-time", "2026-01-02T03:04:05Z", "--wait"]
    with daemon(cli_in.home, workspace):
        with instance_of(cli_in) as instance:
            while not DagsterGateway(instance).queue_is_served():
                time.sleep(0.1)
        told = cli_in.json(*run)
        failed = cli_in("task", "run", "refused", "--wait")
    assert (told["dagster_status"], told["verdict"], told["succeeded"]) == ("SUCCESS", "ran", True)
    execution: dict[str, Any] = told["execution"]
    assert execution["text"] == "Sum up the night of 2026-01-02T03:04:05Z"
    assert (execution["actor"], execution["origin"], execution["run_id"]) == (ACTOR, "on_demand", told["run_id"])
    assert failed.exit_code == 1
    assert "failed: server: scripted failure" in failed.stdout
