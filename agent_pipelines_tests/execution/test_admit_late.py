import pytest

from agent_pipelines.core.event import Final
from agent_pipelines.core.execution import RunRef, Status, Verdict
from agent_pipelines.core.invocation import Origin
from agent_pipelines.hub import Hub
from agent_pipelines_tests.execution.conftest import Execute, invocation
from agent_pipelines_tests.execution.scripted import ScriptedRuntime

ASKED = {"trigger": "interval", "origin": Origin.SCHEDULE, "occurrence": "7"}


def give_up(hub: Hub, verdict: Verdict) -> None:
    tick = (("default", "app", "job"), "interval", "7")
    with hub.database.transaction() as connection:
        hub.ticks.claim(connection, *tick, origin=Origin.SCHEDULE, due_at=7)
        hub.ticks.decide(connection, *tick, verdict, reason="nobody came")


@pytest.mark.parametrize("verdict", [Verdict.SKIPPED, Verdict.MISSED, Verdict.LAUNCH_FAILED])
def test_a_run_that_comes_after_its_tick_was_given_up_asks_no_agent(hub: Hub, execute: Execute, verdict: Verdict) -> None:
    give_up(hub, verdict)
    runtime = ScriptedRuntime([Final(text="done")])
    result = execute(runtime, invocation=invocation(**ASKED))
    assert result.status is Status.SKIPPED
    assert f"the tick was decided before this run came: {verdict}: nobody came" in (result.reason or "")
    assert runtime.seen == []
    with hub.database.reading() as connection:
        tick = hub.ticks.find(connection, ("default", "app", "job"), "interval", "7")
    assert tick is not None
    assert tick.verdict is verdict


def test_a_repair_of_a_launch_that_failed_is_admitted(hub: Hub, execute: Execute) -> None:
    give_up(hub, Verdict.LAUNCH_FAILED)
    repairing = RunRef(run_id="r", resumes=True)
    assert (
        execute(ScriptedRuntime([Final(text="done")]), invocation=invocation(**ASKED), run=repairing).status is Status.SUCCEEDED
    )
