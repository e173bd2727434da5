"""The decision about an upstream, over all that it may depend on; how it plays out is tested with the sensors."""

from dataclasses import dataclass
from itertools import product
from typing import Literal

import pytest

from agent_pipelines.core.duration import Duration
from agent_pipelines.core.errors import ErrorClass
from agent_pipelines.core.execution import Status, Verdict
from agent_pipelines.core.invocation import Origin
from agent_pipelines.core.trigger import After
from agent_pipelines.engine.after import Decision, Step, decide
from agent_pipelines.engine.tick import REPAIR, Tick

HOUR = 3_600_000_000
DUE = 1_000 * HOUR


@dataclass(frozen=True)
class Execution:
    status: Status
    resumptions: int = 0
    finished_at: int | None = DUE + 5
    error_message: str | None = None
    error_class: ErrorClass | None = None


def tick(verdict: Verdict | None, *, trigger: str = "cron", rehearsed: bool = False, resumptions: int | None = None) -> Tick:
    return Tick(
        seq=1,
        id="t",
        workspace="default",
        application="app",
        task="report",
        trigger=trigger,
        origin=Origin.SCHEDULE,
        occurrence="o",
        due_at=DUE,
        begins_at=DUE,
        logical_at=DUE - 900 * HOUR if rehearsed else DUE,
        actor="system",
        inputs={"resumptions": resumptions},
        claimed_at=DUE,
        run_id="r",
        verdict=verdict,
        reason="why",
        execution_id="e",
        decided_at=DUE,
    )


def after(repair: bool, if_upstream_fails: Literal["skip", "run"]) -> After:
    one = Duration(3_600)
    return After(task="report", offset=one, wait_at_most=one, repair=repair, if_upstream_fails=if_upstream_fails)


_EXECUTIONS = [None, *(Execution(status, resumptions) for status in Status for resumptions in (0, 1))]
_REPAIRS = [None, *(tick(verdict, trigger=REPAIR, resumptions=0) for verdict in (None, Verdict.RAN, Verdict.LAUNCH_FAILED))]


@pytest.mark.parametrize("verdict", [None, *Verdict])
@pytest.mark.parametrize("rehearsed", [False, True])
def test_what_always_holds(verdict: Verdict | None, rehearsed: bool) -> None:
    upstream = tick(verdict, rehearsed=rehearsed)
    combinations = product(_EXECUTIONS, _REPAIRS, (True, False), ("skip", "run"), (DUE, DUE + HOUR, DUE + 3 * HOUR))
    for execution, repair, may_repair, on_failure, now in combinations:
        decision = decide(after(may_repair, on_failure), upstream, execution, repair, now)
        failed = execution is not None and execution.status in (Status.FAILED, Status.CANCELLED)
        no_launch = verdict is Verdict.LAUNCH_FAILED and execution is None
        assert decision.reason
        match decision.step:
            case Step.REPAIR:
                assert may_repair
                assert repair is None
                assert failed or no_launch
            case Step.RUN:
                succeeded = execution is not None and execution.status is Status.SUCCEEDED
                assert succeeded or (on_failure == "run" and (failed or no_launch))
                assert rehearsed or now >= DUE + HOUR
            case Step.SKIP:
                not_run = verdict in (None, Verdict.SKIPPED, Verdict.MISSED)
                assert not_run or execution is None or execution.status is not Status.SUCCEEDED
                assert rehearsed or now >= DUE + HOUR
            case Step.WAIT:
                assert now < DUE + 3 * HOUR
                assert now < decision.until <= DUE + 2 * HOUR + 1
        assert decision.logical_at == (DUE - 900 * HOUR if rehearsed else DUE) + HOUR
        assert rehearsed or decision.due_at == DUE + HOUR


def test_a_rehearsing_follower_has_its_own_logical_time() -> None:
    trigger = After(task="report", logical_time="1970-01-01T00:00:01Z")
    decision = decide(trigger, tick(Verdict.RAN), Execution(Status.SUCCEEDED), None, DUE)
    assert decision == Decision(Step.RUN, "upstream succeeded", DUE, 1_000_000, until=DUE + 6 * HOUR + 1)


def test_an_execution_that_is_gone_from_the_record_is_said_to_be() -> None:
    decision = decide(after(True, "skip"), tick(Verdict.RAN), None, None, DUE + HOUR)
    assert (decision.step, decision.reason) == (Step.SKIP, "upstream's execution e is not in the record any more")


def test_an_upstream_whose_outcome_is_unknown_is_not_repeated_by_itself() -> None:
    lost = Execution(Status.FAILED, error_message="its process was lost", error_class=ErrorClass.UNKNOWN_OUTCOME)
    decision = decide(after(True, "skip"), tick(Verdict.RAN), lost, None, DUE + HOUR)
    assert decision.step is Step.SKIP
    assert "outcome is unknown" in decision.reason
