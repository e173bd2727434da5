"""A task that waits, through Dagster: the run ends, the poller asks for another, and that one brings the result."""

import asyncio
from pathlib import Path

import dagster as dg

from agent_pipelines.components.resource import AgentResource
from agent_pipelines.core.execution import Status
from agent_pipelines.definitions import declared_agents
from agent_pipelines.engine.launch import launch_of, tag
from agent_pipelines.engine.tick import CONTINUATION, Tick
from agent_pipelines_tests.components.project import Project
from agent_pipelines_tests.components.running import definitions_of, executions, fake, hub_of, run, task

AGENT = fake(replies=["the report"], works_for="50ms")


def asked(instance: dg.DagsterInstance) -> Tick:
    """The continuation that the poller asks for."""
    hub = hub_of(instance)
    resource = AGENT.resource()
    assert isinstance(resource, AgentResource)

    async def main() -> None:
        poller = hub.poller({"writer": resource.create})
        looked = 0
        while not looked:
            await asyncio.sleep(0.01)
            looked = (await poller.look()).arrived
        await poller.close()

    asyncio.run(main())
    with hub.database.reading() as connection:
        (tick,) = hub.ticks.list(connection, trigger=CONTINUATION)
    return tick


def test_a_run_that_waits_ends_and_a_continuation_materializes(instance: dg.DagsterInstance) -> None:
    defs = definitions_of(task(output={"format": "text"}), agents=(AGENT,))
    first = run(defs, instance)
    assert first.success
    assert first.get_asset_materialization_events() == []
    assert instance.get_run_by_id(first.run_id).tags[tag("verdict")] == "waiting"  # pyright: ignore[reportOptionalMemberAccess]
    (waiting,) = executions(instance)
    assert waiting.status is Status.WAITING
    job, launch, tags = launch_of(asked(instance))
    assert job == "default__digest"
    second = run(defs, instance, launch=launch, **tags)
    (event,) = second.get_asset_materialization_events()
    assert event.materialization.metadata["execution_id"].value == waiting.id
    (done,) = executions(instance)
    assert (done.status, done.text, done.attempts, done.resumptions) == (Status.SUCCEEDED, "the report", 1, 1)
    # A second run of the same continuation brings nothing new and does nothing again.
    third = run(defs, instance, launch=launch, **tags)
    assert third.success
    assert [each.attempts for each in executions(instance)] == [1]


def test_the_poller_knows_the_agents_of_a_project(project: Project) -> None:
    project.agent("writer").task("digest")
    agents = declared_agents(Path(project.root))
    assert list(agents) == ["writer"]
    assert agents["writer"]().nodes[0].runtime.kind == "fake"
