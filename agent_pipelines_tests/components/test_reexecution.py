"""Which invocation a run asks for that executes another one again: by the buttons of Dagster's own web interface."""

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import InProcessWorkspaceLoadTarget
from dagster_graphql.schema import create_schema

from agent_pipelines.core.batch import BatchStatus
from agent_pipelines.core.execution import Status
from agent_pipelines.core.invocation import Origin
from agent_pipelines.engine.launch import Launch, launch_of
from agent_pipelines.engine.tick import MERGE, SHARD
from agent_pipelines.ledger.batches import Batch
from agent_pipelines.ledger.stored import StoredExecution
from agent_pipelines_tests.components.project import Project
from agent_pipelines_tests.components.running import executions, hub_of

AGENTS = """
from pathlib import Path

DONE = Path(__file__).with_name("ready")
SOURCE = Path(__file__).with_name("source")


def orders():
    if not SOURCE.exists():
        raise RuntimeError("the source is away")
    yield from ({"id": f"o{number}"} for number in range(3))


async def work(invocation):
    if not DONE.exists():
        raise RuntimeError("not yet")
    return invocation.messages[-1].content
"""
AGENT = "type: agent_pipelines.components.Agent\nattributes:\n  runtime: python\n  config: {function: 'PACKAGE.agents:work'}\n"
NIGHTLY = Launch(
    task="default/digest",
    trigger="nightly",
    origin=Origin.SCHEDULE,
    occurrence="1700000000000000",
    due_at=1_700_000_000_000_000,
    logical_at=1_600_000_000_000_000,
    variables={"who": "kim"},
)
_LAUNCH = """
mutation ($params: ExecutionParams!) {
  launchRun(executionParams: $params) { __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } }
}
"""
_AGAIN = """
mutation ($params: ReexecutionParams!) {
  launchRunReexecution(reexecutionParams: $params) {
    __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message stack }
  }
}
"""


class Deployment:
    """A project whose agent fails until it is made ready, and Dagster's web interface to it."""

    def __init__(self, project: Project, instance: dg.DagsterInstance, workspace: WorkspaceProcessContext) -> None:
        self.instance = instance
        self._ready = project.defs.parent / "ready"
        self._workspace = workspace
        self._schema = create_schema()

    def make_ready(self) -> None:
        self._ready.touch()

    def open_source(self) -> None:
        self._ready.with_name("source").touch()

    def click(self, launch: Launch | None = None, *, job: str = "default__digest", more: Mapping[str, str] = {}) -> str:
        given = {**more, **({} if launch is None else launch.tags())}
        tags = [{"key": key, "value": value} for key, value in given.items()]
        selector = {
            "repositoryLocationName": "project",
            "repositoryName": "__repository__",
            "jobName": job,
        }
        params = {"selector": selector, "runConfigData": {}, "mode": "default", "executionMetadata": {"tags": tags}}
        return self._run(_LAUNCH, "launchRun", params)

    def again(self, run_id: str, strategy: str, **tags: str) -> str:
        extra = [{"key": key.replace("__", "/"), "value": value} for key, value in tags.items()]
        params = {"parentRunId": run_id, "strategy": strategy, "extraTags": extra, "useParentRunTags": True}
        return self._run(_AGAIN, "launchRunReexecution", params)

    def succeeded(self, run_id: str) -> bool:
        run = self.instance.get_run_by_id(run_id)
        return run is not None and run.is_success

    def executions(self) -> list[StoredExecution]:
        return executions(self.instance)

    def _run(self, query: str, field: str, params: dict[str, Any]) -> str:
        context = self._workspace.create_request_context()
        result = asyncio.run(self._schema.execute_async(query, context_value=context, variables={"params": params}))
        assert not result.errors, result.errors
        answer = result.data[field]
        assert "run" in answer, answer
        return answer["run"]["runId"]


@pytest.fixture
def deployment(project: Project, tmp_path: Path) -> Iterator[Deployment]:
    (project.defs.parent / "agents.py").write_text(AGENTS)
    project.agent(text=AGENT.replace("PACKAGE", project.package))
    project.task(
        "digest",
        "retry: {max_attempts: 1}\nvariables: {who: nobody}\ntriggers: [{kind: cron, name: nightly, cron: '0 6 * * *'}]",
        prompt="For {{ who }} on {{ logical_time }}",
    )
    batch = f"{{items: {{python: '{project.package}.agents:orders'}}, key: id}}"
    project.task("orders", f"retry: {{max_attempts: 1}}\nbatch: {batch}", prompt="Check {{ item.id }}")
    home = tmp_path / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text(
        "telemetry: {enabled: false}\n"
        "run_coordinator: {module: dagster._core.run_coordinator, class: DefaultRunCoordinator}\n"
        "run_launcher: {module: dagster._core.launcher.sync_in_memory_run_launcher, class: SyncInMemoryRunLauncher}\n"
    )
    origin = InProcessCodeLocationOrigin(
        LoadableTargetOrigin(module_name=f"{project.package}.definitions", working_directory=str(project.root)),
        location_name="project",
    )
    with dg.DagsterInstance.from_config(str(home)) as instance:
        with WorkspaceProcessContext(instance, InProcessWorkspaceLoadTarget([origin])) as workspace:
            yield Deployment(project, instance, workspace)


@pytest.mark.parametrize("strategy", ["FROM_FAILURE", "FROM_ASSET_FAILURE"])
def test_from_failure_resumes_the_invocation_of_a_tick(deployment: Deployment, strategy: str) -> None:
    first = deployment.click(NIGHTLY)
    assert not deployment.succeeded(first)
    deployment.make_ready()
    second = deployment.again(first, strategy)
    assert deployment.succeeded(second)
    [execution] = deployment.executions()
    assert (execution.status, execution.resumptions, execution.attempts) == (Status.SUCCEEDED, 1, 2)
    assert (execution.trigger, execution.occurrence) == ("nightly", NIGHTLY.occurrence)
    assert (execution.due_at, execution.logical_at) == (NIGHTLY.due_at, NIGHTLY.logical_at)
    assert execution.run_id == second
    assert execution.text == "For kim on 2020-09-13T12:26:40Z"


@pytest.mark.parametrize("strategy", ["FROM_FAILURE", "FROM_ASSET_FAILURE"])
def test_from_failure_resumes_a_click_through_several_failures(deployment: Deployment, strategy: str) -> None:
    first = deployment.click()
    second = deployment.again(first, strategy)
    third = deployment.again(second, strategy)
    deployment.make_ready()
    fourth = deployment.again(third, strategy)
    assert deployment.succeeded(fourth)
    [execution] = deployment.executions()
    assert (execution.origin, execution.occurrence) == (Origin.ON_DEMAND, first)
    assert (execution.resumptions, execution.run_id) == (3, fourth)


def test_from_failure_of_a_run_that_was_resumed_before_resumes_too(deployment: Deployment) -> None:
    first = deployment.click()
    deployment.again(first, "FROM_FAILURE")
    deployment.make_ready()
    assert deployment.succeeded(deployment.again(first, "FROM_FAILURE"))
    [execution] = deployment.executions()
    assert (execution.occurrence, execution.resumptions) == (first, 2)


def test_all_steps_is_a_new_invocation_on_the_same_inputs(deployment: Deployment) -> None:
    deployment.make_ready()
    first = deployment.click(NIGHTLY)
    second = deployment.again(first, "ALL_STEPS")
    assert deployment.succeeded(second)
    old, new = deployment.executions()
    assert (old.trigger, old.occurrence) == ("nightly", NIGHTLY.occurrence)
    assert (new.trigger, new.origin, new.occurrence) == ("on_demand", Origin.ON_DEMAND, second)
    assert new.idempotency_key != old.idempotency_key
    assert new.logical_at == old.logical_at
    assert new.due_at > old.due_at
    assert new.text == old.text == "For kim on 2020-09-13T12:26:40Z"


def test_from_failure_of_an_all_steps_run_resumes_that_one(deployment: Deployment) -> None:
    deployment.make_ready()
    first = deployment.click(NIGHTLY)
    deployment._ready.unlink()
    second = deployment.again(first, "ALL_STEPS")
    deployment.make_ready()
    third = deployment.again(second, "FROM_FAILURE")
    assert deployment.succeeded(third)
    _, new = deployment.executions()
    assert (new.occurrence, new.resumptions, new.run_id) == (second, 1, third)


def test_all_steps_of_a_resumed_run_is_new_though_its_tags_are_copied(deployment: Deployment) -> None:
    first = deployment.click(NIGHTLY)
    deployment.make_ready()
    second = deployment.again(first, "FROM_ASSET_FAILURE")
    third = deployment.again(second, "ALL_STEPS")
    run = deployment.instance.get_run_by_id(third)
    assert run is not None
    assert run.tags["dagster/is_asset_resume_retry"] == "true"  # copied by Dagster
    assert [execution.occurrence for execution in deployment.executions()] == [NIGHTLY.occurrence, third]


def test_an_automatic_retry_resumes(deployment: Deployment) -> None:
    first = deployment.click()
    deployment.make_ready()
    second = deployment.again(first, "ALL_STEPS", dagster__retry_number="1")
    assert deployment.succeeded(second)
    [execution] = deployment.executions()
    assert (execution.occurrence, execution.resumptions) == (first, 1)


def test_a_run_that_repairs_a_tick_resumes_without_a_parent(deployment: Deployment) -> None:
    assert not deployment.succeeded(deployment.click(NIGHTLY))
    deployment.make_ready()
    repair = deployment.click(NIGHTLY.model_copy(update={"resume": True}))
    assert deployment.succeeded(repair)
    [execution] = deployment.executions()
    assert (execution.occurrence, execution.resumptions, execution.run_id) == (NIGHTLY.occurrence, 1, repair)


def test_a_batch_whose_source_was_away_is_split_by_from_failure_and_another_one_by_all_steps(deployment: Deployment) -> None:
    first = deployment.click(job="default__orders")
    assert not deployment.succeeded(first)
    deployment.open_source()
    assert deployment.succeeded(deployment.again(first, "FROM_FAILURE"))
    [batch] = batches(deployment)
    assert (batch.status, batch.item_count, batch.run_id) == (BatchStatus.RUNNING, 3, first)
    third = deployment.again(first, "ALL_STEPS")
    newest, oldest = batches(deployment)
    assert (oldest.id, newest.run_id, newest.occurrence) == (batch.id, third, third)


def test_from_failure_of_a_shard_does_its_failed_items_alone(deployment: Deployment) -> None:
    deployment.open_source()
    deployment.click(job="default__orders")
    shard = asked(deployment, SHARD)
    assert not deployment.succeeded(shard)
    assert not deployment.succeeded(asked(deployment, MERGE))
    [batch] = batches(deployment)
    assert (batch.status, batch.failed) == (BatchStatus.FAILED, 3)
    deployment.make_ready()
    assert deployment.succeeded(deployment.again(shard, "FROM_FAILURE"))
    assert deployment.succeeded(asked(deployment, MERGE))
    [batch] = batches(deployment)
    assert (batch.status, batch.done, batch.failed) == (BatchStatus.SUCCEEDED, 3, 0)
    items = [each for each in executions(deployment.instance, "orders") if each.item is not None]
    assert [(each.status, each.attempts) for each in items] == [(Status.SUCCEEDED, 2)] * 3


def batches(deployment: Deployment) -> list[Batch]:
    hub = hub_of(deployment.instance)
    with hub.database.reading() as connection:
        return list(hub.batches.list(connection))


def asked(deployment: Deployment, trigger: str) -> str:
    """The run of what a batch asks for next."""
    hub = hub_of(deployment.instance)
    with hub.database.reading() as connection:
        [tick] = [tick for tick in hub.ticks.open(connection) if tick.trigger == trigger]
    job, launch, tags = launch_of(tick)
    return deployment.click(launch, job=job, more=tags)
