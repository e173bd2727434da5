import threading
from typing import Any

import pytest

from agent_pipelines.core.clock import ManualClock
from agent_pipelines.core.errors import ErrorClass, IllegalTransition, Stage
from agent_pipelines.core.event import Usage
from agent_pipelines.core.execution import RunRef, Status
from agent_pipelines.core.invocation import Invocation, Origin
from agent_pipelines.core.task import TaskSpec
from agent_pipelines.ledger.executions import Admission, Executions
from agent_pipelines.ledger.specs import TaskSpecs
from agent_pipelines.store.database import Database

SPEC = TaskSpec(name="review", application="code", intent="Review a commit", agent="reviewer")


def _invocation(occurrence: str = "1", **changes: Any) -> Invocation:
    values = {
        "application": "code",
        "task": "review",
        "spec_hash": SPEC.spec_hash,
        "trigger": "cron",
        "origin": Origin.SCHEDULE,
        "occurrence": occurrence,
        "due_at": 1,
        "logical_at": 1,
    }
    return Invocation.model_validate({**values, **changes})


@pytest.fixture
def executions(database: Database, clock: ManualClock) -> Executions:
    with database.transaction() as connection:
        TaskSpecs(clock).put(connection, SPEC)
    return Executions(clock)


def _admit(
    database: Database, executions: Executions, invocation: Invocation, run: RunRef, dedupe_key: str | None = None
) -> Admission:
    with database.transaction() as connection:
        return executions.admit(connection, invocation, run, dedupe_key=dedupe_key, trace_id="0" * 32)


def _close(database: Database, executions: Executions, execution_id: str, status: Status = Status.FAILED) -> None:
    error = (ErrorClass.SERVER, Stage.INVOKE, "boom") if status is Status.FAILED else None
    with database.transaction() as connection:
        executions.close(connection, execution_id, status, text="done" if error is None else None, error=error)


def test_a_second_run_of_the_same_tick_is_a_duplicate(database: Database, executions: Executions) -> None:
    first = _admit(database, executions, _invocation(), RunRef(run_id="a"))
    second = _admit(database, executions, _invocation(), RunRef(run_id="b"))
    assert (first.outcome, second.outcome) == ("new", "duplicate")
    assert second.execution.id == first.execution.id
    _close(database, executions, first.execution.id)
    # A failed execution is repeated by re-executing its run, not by a second run of the tick.
    assert _admit(database, executions, _invocation(), RunRef(run_id="c")).outcome == "duplicate"


def test_re_executing_from_failure_resumes_the_execution(database: Database, executions: Executions) -> None:
    first = _admit(database, executions, _invocation(), RunRef(run_id="a"))
    with database.transaction() as connection:
        executions.start_attempt(connection, first.execution.id, 1, run_id="a", agent="reviewer", node="n1")
    _close(database, executions, first.execution.id)
    again = _admit(database, executions, _invocation(), RunRef(run_id="b", parent_run_id="a", resumes=True))
    assert again.outcome == "resumed"
    assert again.execution.id == first.execution.id
    assert (again.execution.status, again.execution.run_id, again.execution.resumptions) == (Status.RUNNING, "b", 1)
    assert again.execution.error_class is None
    with database.reading() as connection:
        assert [attempt.status for attempt in executions.attempts.of(connection, again.execution.id)] == ["lost"]


def test_what_succeeded_is_not_done_again(database: Database, executions: Executions) -> None:
    first = _admit(database, executions, _invocation(), RunRef(run_id="a"))
    _close(database, executions, first.execution.id, Status.SUCCEEDED)
    again = _admit(database, executions, _invocation(), RunRef(run_id="b", parent_run_id="a", resumes=True))
    assert (again.outcome, again.execution.text) == ("finished", "done")


def test_a_stranger_cannot_take_over_a_running_execution(database: Database, executions: Executions) -> None:
    _admit(database, executions, _invocation(), RunRef(run_id="a"))
    assert _admit(database, executions, _invocation(), RunRef(run_id="c", parent_run_id="b", resumes=True)).outcome == "duplicate"
    assert _admit(database, executions, _invocation(), RunRef(run_id="c", parent_run_id="a", resumes=True)).outcome == "resumed"


def test_one_key_one_execution_until_it_fails(database: Database, executions: Executions) -> None:
    first = _admit(database, executions, _invocation("1"), RunRef(run_id="a"), "sha-1")
    other = _admit(database, executions, _invocation("2", trigger="event"), RunRef(run_id="b"), "sha-1")
    assert (other.outcome, other.execution.id) == ("duplicate", first.execution.id)
    _close(database, executions, first.execution.id)
    third = _admit(database, executions, _invocation("3"), RunRef(run_id="c"), "sha-1")
    assert third.outcome == "new"
    # The key is taken now: resuming the first would do the work twice.
    late = _admit(database, executions, _invocation("1"), RunRef(run_id="d", parent_run_id="a", resumes=True), "sha-1")
    assert (late.outcome, late.execution.id) == ("duplicate", third.execution.id)


def test_of_many_runs_at_once_exactly_one_is_admitted(database: Database, executions: Executions) -> None:
    outcomes: list[str] = []
    barrier = threading.Barrier(6)

    def run(number: int) -> None:
        barrier.wait()
        outcomes.append(_admit(database, executions, _invocation("same"), RunRef(run_id=f"run-{number}"), "key").outcome)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["duplicate"] * 5 + ["new"]


def test_an_illegal_change_is_named(database: Database, executions: Executions) -> None:
    admitted = _admit(database, executions, _invocation(), RunRef(run_id="a"))
    _close(database, executions, admitted.execution.id, Status.SUCCEEDED)
    with pytest.raises(IllegalTransition, match="cannot become failed"):
        _close(database, executions, admitted.execution.id)


def test_an_execution_has_spent_what_its_attempts_have(database: Database, executions: Executions) -> None:
    execution_id = _admit(database, executions, _invocation(), RunRef(run_id="a")).execution.id
    spent = [
        Usage(input_tokens=10, output_tokens=1, cost_usd=0.5, requests=1),
        Usage(input_tokens=5, output_tokens=2, cost_usd=0.25),
    ]
    with database.transaction() as connection:
        for number, usage in enumerate(spent, start=1):
            executions.start_attempt(connection, execution_id, number, run_id="a", agent="x", node="n")
            executions.attempts.finish(connection, execution_id, number, "succeeded", usage=usage)
        closed = executions.close(connection, execution_id, Status.SUCCEEDED)
    assert closed.usage == Usage(input_tokens=15, output_tokens=3, cost_usd=0.75, requests=1)


def test_an_unknown_price_makes_the_total_unknown_not_low(database: Database, executions: Executions) -> None:
    execution_id = _admit(database, executions, _invocation(), RunRef(run_id="a")).execution.id
    with database.transaction() as connection:
        for number, cost in enumerate([0.5, None], start=1):
            executions.start_attempt(connection, execution_id, number, run_id="a", agent="x", node="n")
            usage = Usage(input_tokens=10, output_tokens=1, cost_usd=cost)
            executions.attempts.finish(connection, execution_id, number, "succeeded", usage=usage)
        closed = executions.close(connection, execution_id, Status.SUCCEEDED)
    assert (closed.input_tokens, closed.cost_usd) == (20, None)


def test_a_free_attempt_and_one_that_spent_nothing_leave_the_total_known(database: Database, executions: Executions) -> None:
    execution_id = _admit(database, executions, _invocation(), RunRef(run_id="a")).execution.id
    spent = [Usage(input_tokens=0, output_tokens=0), Usage(), Usage(output_tokens=7, cost_usd=0.5)]
    with database.transaction() as connection:
        for number, usage in enumerate(spent, start=1):
            executions.start_attempt(connection, execution_id, number, run_id="a", agent="x", node="n")
            executions.attempts.finish(connection, execution_id, number, "succeeded", usage=usage)
        closed = executions.close(connection, execution_id, Status.SUCCEEDED)
    assert closed.usage == Usage(input_tokens=0, output_tokens=7, cost_usd=0.5)


def test_an_execution_without_attempts_has_spent_nothing_that_is_known(database: Database, executions: Executions) -> None:
    execution_id = _admit(database, executions, _invocation(), RunRef(run_id="a")).execution.id
    with database.transaction() as connection:
        assert executions.close(connection, execution_id, Status.SKIPPED, reason="none").usage == Usage()


def test_pages_stay_stable_while_rows_are_added(database: Database, executions: Executions) -> None:
    for number in range(7):
        _admit(database, executions, _invocation(f"old-{number}"), RunRef(run_id=f"r{number}"))
    with database.reading() as connection:
        page = executions.list(connection, limit=3)
    _admit(database, executions, _invocation("new"), RunRef(run_id="new"))
    seen = [row.occurrence for row in page]
    while page:
        with database.reading() as connection:
            page = executions.list(connection, limit=3, before=page[-1].seq)
        seen += [row.occurrence for row in page]
    assert seen == [f"old-{number}" for number in reversed(range(7))]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"status": Status.FAILED}, {"bad"}),
        ({"origin": Origin.EVENT}, {"good"}),
        ({"text": "walrus report"}, {"good"}),
        ({"text": "WALRUS"}, {"good"}),
        ({"text": "report walrus nothing"}, set[str]()),
        ({"text": 'quo"te OR walrus'}, set[str]()),
        ({"text": "boom"}, {"bad"}),
        ({"task": "review", "application": "code"}, {"good", "bad"}),
        ({"task": "other"}, set[str]()),
        ({"workspace": "elsewhere"}, set[str]()),
        ({"run_id": "a"}, {"good"}),
    ],
)
def test_filters(database: Database, executions: Executions, filters: dict[str, Any], expected: set[str]) -> None:
    good = _admit(database, executions, _invocation("good", origin=Origin.EVENT), RunRef(run_id="a")).execution.id
    bad = _admit(database, executions, _invocation("bad"), RunRef(run_id="b")).execution.id
    with database.transaction() as connection:
        executions.close(connection, good, Status.SUCCEEDED, text="The walrus report is ready")
    _close(database, executions, bad)
    with database.reading() as connection:
        assert {row.occurrence for row in executions.list(connection, **filters)} == expected


def test_the_lost_are_closed_once(database: Database, executions: Executions) -> None:
    execution_id = _admit(database, executions, _invocation(), RunRef(run_id="a")).execution.id
    with database.transaction() as connection:
        executions.start_attempt(connection, execution_id, 1, run_id="a", agent="x", node="n")
        assert executions.close_lost(connection, execution_id, "the process is gone")
        assert not executions.close_lost(connection, execution_id, "the process is gone")
        stored = executions.get(connection, execution_id)
        attempts = executions.attempts.of(connection, execution_id)
    assert stored is not None
    assert (stored.status, stored.error_message) == (Status.FAILED, "the process is gone")
    assert [attempt.status for attempt in attempts] == ["lost"]


def test_what_postgresql_cannot_keep_is_kept_as_far_as_possible(database: Database, executions: Executions) -> None:
    invocation = _invocation(variables={"nul": "a\x00b", "nan": float("nan")})
    execution_id = _admit(database, executions, invocation, RunRef(run_id="a")).execution.id
    with database.transaction() as connection:
        closed = executions.close(connection, execution_id, Status.SUCCEEDED, text="x\x00y", output={"n": float("inf")})
    assert (closed.text, closed.output) == ("x\ufffdy", {"n": None})
    assert closed.invocation.variables == {"nul": "a\ufffdb", "nan": None}
