import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import SecretStr

from agent_pipelines.core.acting import Acting
from agent_pipelines.core.clock import ManualClock
from agent_pipelines.core.errors import ErrorClass, RuntimeFailure
from agent_pipelines.core.execution import RunRef
from agent_pipelines.execution.effects import Effects, EffectUnknown
from agent_pipelines.execution.saga import Saga, SagaFailed
from agent_pipelines.hub import Hub
from agent_pipelines_tests.execution.conftest import invocation, spec


class Killed(BaseException):
    """What stands for kill -9: nothing of ours handles it."""


class Trip:
    """Three bookings of which the last one fails, and a point at which the process dies, once."""

    def __init__(self, dies_before: str | None = None) -> None:
        self.log: list[str] = []
        self.dies_before = dies_before

    def _do(self, what: str) -> str:
        if what == self.dies_before:
            self.dies_before = None
            raise Killed
        self.log.append(what)
        return f"receipt of {what}"

    def book(self, saga: Saga) -> None:
        for key in ("flight", "hotel"):
            saga.step(key, lambda key=key: self._do(key), undo=lambda receipt, key=key: self._undo(key, receipt), idempotent=True)
        saga.step("car", self._fail, idempotent=True)

    def _undo(self, key: str, receipt: str) -> str:
        assert receipt == f"receipt of {key}"
        return self._do(f"cancel {key}")

    def _fail(self) -> None:
        self._do("try car")
        raise RuntimeFailure(ErrorClass.INVALID_REQUEST, "no car left")


@pytest.fixture
def begin(hub: Hub) -> Callable[[], Effects]:
    """The effects of the next run of one execution."""
    asked = invocation()
    runs: list[str] = []

    def effects() -> Effects:
        run_id, before = f"run-{len(runs)}", runs[-1] if runs else None
        runs.append(run_id)
        with hub.database.transaction() as connection:
            if before is not None:
                stored = hub.executions.of_key(connection, asked.idempotency_key)
                assert stored is not None
                hub.executions.close_lost(connection, stored.id, "its process was lost")
            frozen = asked.model_copy(update={"spec_hash": hub.ledger.specs.put(connection, spec())})
            run = RunRef(run_id=run_id, parent_run_id=before, resumes=before is not None)
            admitted = hub.executions.admit(connection, frozen, run, dedupe_key=None, trace_id="t").execution
        whom = Acting(
            workspace="default",
            application="app",
            task="job",
            scope=asked.idempotency_key,
            run_id=run_id,
            execution_id=admitted.id,
            database_url=SecretStr("sqlite://"),
        )
        return hub.effects_of(whom)

    return effects


def test_a_step_that_fails_has_the_others_undone_in_reverse(begin: Callable[[], Effects]) -> None:
    trip = Trip()
    with pytest.raises(SagaFailed, match="no car left") as caught, Saga(begin(), "trip") as saga:
        trip.book(saga)
    assert trip.log == ["flight", "hotel", "try car", "cancel hotel", "cancel flight"]
    assert caught.value.error_class is ErrorClass.COMPENSATED
    assert "undone: trip/hotel, trip/flight" in str(caught.value)
    with pytest.raises(SagaFailed, match="no car left"), Saga(begin(), "trip") as saga:
        trip.book(saga)
    assert len(trip.log) == 5


@pytest.mark.parametrize("boundary", ["flight", "hotel", "try car", "cancel hotel", "cancel flight"])
def test_each_happens_once_wherever_the_process_dies(begin: Callable[[], Effects], boundary: str) -> None:
    trip = Trip(dies_before=boundary)
    with pytest.raises(Killed), Saga(begin(), "trip") as saga:
        trip.book(saga)
    with pytest.raises((SagaFailed, EffectUnknown)) as caught, Saga(begin(), "trip") as saga:
        trip.book(saga)
    if boundary.startswith("cancel"):  # a compensator that may have happened and is not idempotent is for a person
        assert isinstance(caught.value, EffectUnknown)
    else:
        assert trip.log == ["flight", "hotel", "try car", "cancel hotel", "cancel flight"]
    assert len(trip.log) == len(set(trip.log))


def test_compensators_that_may_be_repeated_are(begin: Callable[[], Effects]) -> None:
    undone: list[str] = []

    def undo(receipt: str) -> None:
        undone.append(receipt)
        if len(undone) == 1:
            raise Killed

    def book() -> None:
        with Saga(begin(), "trip") as saga:
            saga.step("flight", lambda: "F1", undo=undo, undo_idempotent=True)
            raise ValueError("changed my mind")

    with pytest.raises(Killed):
        book()
    with pytest.raises(SagaFailed, match="changed my mind"):
        book()
    assert undone == ["F1", "F1"]


def test_a_saga_that_succeeds_undoes_nothing(begin: Callable[[], Effects]) -> None:
    with Saga(begin(), "trip") as saga:
        assert saga.step("flight", lambda: 1, undo=lambda receipt: pytest.fail("undone")) == 1


def test_nothing_is_undone_while_it_is_unknown_whether_a_step_has_happened(begin: Callable[[], Effects]) -> None:
    def lost() -> None:
        raise ConnectionError("no answer")

    undone: list[Any] = []

    def book() -> None:
        with Saga(begin(), "trip") as saga:
            saga.step("flight", lambda: 1, undo=undone.append)
            saga.step("hotel", lost)

    for _ in range(2):
        with pytest.raises(EffectUnknown):
            book()
    assert undone == []


def test_a_step_that_has_certainly_not_happened_is_tried_again(begin: Callable[[], Effects], clock: ManualClock) -> None:
    calls: list[int] = []

    def busy() -> str:
        calls.append(1)
        if len(calls) < 3:
            raise RuntimeFailure(ErrorClass.CONNECTION, "connection refused")
        return "booked"

    with Saga(begin(), "trip") as saga:
        assert saga.step("flight", busy, tries=3) == "booked"
    assert clock.sleeps == [1.0, 2.0]


def test_coroutines_are_steps_too(begin: Callable[[], Effects]) -> None:
    log: list[str] = []

    async def book() -> str:
        log.append("book")
        return "F1"

    async def cancel(receipt: str) -> None:
        log.append(f"cancel {receipt}")

    async def main() -> None:
        async with Saga(begin(), "trip") as saga:
            await saga.step("flight", book, undo=cancel)
            raise ValueError("changed my mind")

    with pytest.raises(SagaFailed):
        asyncio.run(main())
    assert log == ["book", "cancel F1"]
