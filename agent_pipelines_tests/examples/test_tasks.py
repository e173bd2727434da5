"""The declared tasks, executed by the runner with the agents behind their server; only Dagster is left out."""

import itertools
import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import JsonValue

from agent_pipelines.components.agent import Agent
from agent_pipelines.components.task import AgentTask
from agent_pipelines.context.composer import trigger_variables
from agent_pipelines.core.clock import Microseconds, to_microseconds
from agent_pipelines.core.execution import ExecutionResult, RunRef, Status
from agent_pipelines.core.invocation import Invocation, Origin
from agent_pipelines.core.trigger import Event, trigger_name
from agent_pipelines.definitions import definitions
from agent_pipelines.engine.inbox import InboxEvent
from agent_pipelines.engine.project_tree import ProjectTree
from agent_pipelines.execution.checks import load_checks
from agent_pipelines.hub import Hub
from agent_pipelines.store.database import Database
from agent_pipelines.store.migration import migrate
from agent_pipelines_tests.examples.serving import ROOT, AgentServer, MailServer

EXAMPLES = ROOT / "examples"


class Deployment:
    """The examples over a database of their own."""

    def __init__(self, home: Path) -> None:
        tree = ProjectTree.for_project(EXAMPLES)
        self.tasks = {task.path: task for task, _ in tree.load_all(AgentTask)[0]}
        self.agents = {agent.name: agent for agent, _ in tree.load_all(Agent)[0]}
        self.home = home
        # Where a Dagster instance in this directory has it.
        database = Database(f"sqlite:///{home / 'agent_pipelines.db'}")
        migrate(database)
        self.hub = Hub(database)
        self._numbers = itertools.count(1)

    def execute(
        self,
        path: str,
        *,
        logical_time: str | None = None,
        event: InboxEvent | None = None,
        variables: dict[str, JsonValue] | None = None,
    ) -> ExecutionResult:
        spec, now = self.tasks[path], self.hub.clock.now()
        logical_at = now if logical_time is None else to_microseconds(datetime.fromisoformat(logical_time))
        occurrence = f"run-{next(self._numbers)}"
        invocation = Invocation(
            application=spec.application,
            task=spec.name,
            spec_hash=spec.spec_hash,
            trigger="on_demand" if event is None else trigger_name(self._trigger(path)),
            origin=Origin.ON_DEMAND if event is None else Origin.EVENT,
            occurrence=occurrence if event is None else event.id,
            due_at=now,
            logical_at=logical_at,
            variables={**(variables or {}), **({} if event is None else self._variables(path, event, now, logical_at))},
            event=None if event is None else event.payload,
        )
        agent = self.agents[spec.agent].resource().create()
        return self.hub.runner.execute(invocation, spec, agent, run=RunRef(run_id=occurrence), checks=load_checks(spec))

    def events_for(self, path: str) -> list[InboxEvent]:
        """Events of the inbox that the task's event trigger takes."""
        trigger = self._trigger(path)
        with self.hub.database.reading() as connection:
            found = self.hub.inbox.unclaimed(connection, self.tasks[path].key, "test", trigger.event, since=0)
        return [event for event in found if trigger.match.items() <= event.payload.items()]

    def _trigger(self, path: str) -> Event:
        return next(trigger for trigger in self.tasks[path].triggers if isinstance(trigger, Event))

    def _variables(self, path: str, event: InboxEvent, due_at: Microseconds, logical_at: Microseconds) -> dict[str, JsonValue]:
        return trigger_variables(self._trigger(path), event=event.payload, due_at=due_at, logical_at=logical_at)


@pytest.fixture
def deployment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deployment]:
    with MailServer(tmp_path) as mail, AgentServer(tmp_path, SMTP_HOST="127.0.0.1", SMTP_PORT=str(mail.port)) as server:
        monkeypatch.setenv("EXAMPLE_AGENTS_URL", server.url)
        monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
        deployment = Deployment(tmp_path)
        yield deployment
        deployment.hub.database.close()


def output_of(result: ExecutionResult) -> dict[str, Any]:
    assert result.status is Status.SUCCEEDED, result.error_message
    assert all(check.passed for check in result.checks)
    assert isinstance(result.output, dict)
    return result.output


def files(home: Path, directory: str) -> list[Path]:
    return sorted((home / directory).glob("*.json"))


def test_dagster_can_load_them() -> None:
    jobs = {job.name for job in definitions(EXAMPLES).jobs or () if not job.name.startswith("agent_pipelines__")}

    assert jobs == {
        "finance__reconciliation",
        "finance__settlement",
        "morning__morning_mail",
        "morning__morning_report",
        "morning__record",
        "operations__data_quality",
        "operations__carrier_review",
        "operations__carrier_review__shards",
        "operations__carrier_review__merge",
        "code__code_review",
        "code__code_review_backlog",
    }


def test_three_nights_of_data_quality(deployment: Deployment) -> None:
    nights = [
        output_of(deployment.execute("operations/data_quality", logical_time=f"{day}T23:30:00-05:00"))
        for day in ("2013-02-06", "2013-02-07", "2013-02-08", "2013-02-08")
    ]

    assert [len(night["filed"]) for night in nights[:2]] == [1, 0]
    assert [night["escalate"] for night in nights] == [False, False, True, True]
    # The third night was judged by what the product remembered of the first two.
    assert nights[2]["baseline"]["nights"] == 2
    assert nights[3] == nights[2]
    assert len(files(deployment.home, "tickets")) == 2


def test_a_balanced_hour_is_settled_and_another_is_not(deployment: Deployment) -> None:
    balanced = output_of(deployment.execute("finance/reconciliation", logical_time="2027-01-04T13:00:00Z"))
    mismatched = output_of(deployment.execute("finance/reconciliation", logical_time="2027-01-04T14:00:00Z"))
    assert (balanced["balanced"], mismatched["balanced"]) == (True, False)
    assert len(files(deployment.home, "cases")) == 1

    (event,) = deployment.events_for("finance/settlement")
    settled = deployment.execute("finance/settlement", event=event)
    assert output_of(settled)["total_cents"] == balanced["total_cents"]
    assert len(files(deployment.home, "settlements")) == 1

    output_of(deployment.execute("finance/reconciliation", logical_time="2027-01-04T13:00:00Z"))
    _, again = deployment.events_for("finance/settlement")
    assert deployment.execute("finance/settlement", event=again).deduplicated_into == settled.execution_id


def test_every_commit_is_reviewed_once(deployment: Deployment) -> None:
    sent = output_of(deployment.execute("code/code_review_backlog", variables={"limit": 3}))["sent"]
    assert output_of(deployment.execute("code/code_review_backlog", variables={"limit": 3}))["sent"] == []

    events = deployment.events_for("code/code_review")
    assert [event.payload["commit"] for event in events] == sent
    reviews = [deployment.execute("code/code_review", event=event) for event in events]
    assert [output_of(review)["verdict"] for review in reviews] == ["request_changes", "approve", "request_changes"]

    with deployment.hub.database.transaction() as connection:
        pushed, _ = deployment.hub.inbox.put(connection, "commit.pushed", {"commit": sent[0]}, source="webhook")
        event = deployment.hub.inbox.get(connection, pushed)
    assert deployment.execute("code/code_review", event=event).deduplicated_into == reviews[0].execution_id


def test_the_report_is_made_of_the_record_and_mailed_once(deployment: Deployment) -> None:
    output_of(deployment.execute("operations/data_quality", logical_time="2013-02-06T23:30:00-05:00"))
    failed = deployment.execute("operations/data_quality", variables={"replay_year": 2012})
    assert failed.error_message is not None
    assert "the data set covers 2013" in failed.error_message
    record = output_of(deployment.execute("morning/record"))
    assert [(row["task"], row["status"]) for row in record["executions"]] == [
        ("operations/data_quality", "succeeded"),
        ("operations/data_quality", "failed"),
    ]

    report = deployment.execute("morning/morning_report", logical_time="2026-03-06T06:00:00Z")
    assert report.status is Status.SUCCEEDED
    assert report.text.startswith("# Morning report, 2026-03-06\n")
    assert "| operations/data_quality | 1 | 1 | 0 | 0 |" in report.text
    assert "- operations/data_quality: 2013-02-06: 901 flights, 1 finding(s)" in report.text

    mails = [output_of(deployment.execute("morning/morning_mail", logical_time="2026-03-06T06:15:00Z")) for _ in range(2)]
    assert mails[0] == mails[1]
    (mail,) = (deployment.home / "mail").glob("*.eml")
    assert mails[0]["message_id"] in mail.read_text()
    assert json.loads(files(deployment.home, "outbox")[0].read_text())["state"] == "sent"
