import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import SecretStr

from agent_pipelines.core.acting import Acting
from agent_pipelines.core.effect import EffectStatus
from agent_pipelines.core.errors import AgentPipelinesError, ErrorClass, RuntimeFailure
from agent_pipelines.core.execution import RunRef
from agent_pipelines.core.secrets import redactor
from agent_pipelines.execution.effects import EffectAbandoned, Effects, EffectUnknown
from agent_pipelines.hub import Hub
from agent_pipelines.ledger.effects import Effect
from agent_pipelines_tests.execution.conftest import invocation, spec


class Receiver:
    """Something that effects happen to, whose answers may be lost on the way."""

    def __init__(self) -> None:
        self.happened: list[str] = []
        self.loses: list[str] = []

    def act(self, key: str) -> dict[str, str]:
        if self.loses and self.loses[0] == "request":
            self.loses.pop(0)
            raise ConnectionError("lost on the way there")
        self.happened.append(key)
        if self.loses and self.loses.pop(0) == "answer":
            raise ConnectionError("lost on the way back")
        return {"ticket": f"T-{len(self.happened)}"}

    def probe(self, key: str) -> dict[str, str] | None:
        return {"ticket": f"T-{self.happened.index(key) + 1}"} if key in self.happened else None


@pytest.fixture
def receiver() -> Receiver:
    return Receiver()


@pytest.fixture
def begin(hub: Hub) -> Callable[..., Effects]:
    """Begin, or take over, an execution in a run, and give its effects."""
    asked = invocation()

    def effects(run_id: str = "first", *, resumes: bool = False) -> Effects:
        with hub.database.transaction() as connection:
            frozen = asked.model_copy(update={"spec_hash": hub.ledger.specs.put(connection, spec())})
            run = RunRef(run_id=run_id, parent_run_id="first" if resumes else None, resumes=resumes)
            if resumes:
                stored = hub.executions.of_key(connection, asked.idempotency_key)
                assert stored is not None
                hub.executions.close_lost(connection, stored.id, "its process was lost")
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


def _stored(effects: Effects, key: str) -> Effect:
    found = asyncio.run(effects.find(key))
    assert found is not None
    return found


def _leave_intended(hub: Hub, effects: Effects, key: str) -> None:
    """What a process leaves that is killed between the intent and the receipt."""
    with hub.database.transaction() as connection:
        whom = effects.whom
        hub.ledger.effects.intend(
            connection, whom.task_key, f"{whom.scope}/{key}", name=key, run_id=whom.run_id, execution_id=whom.execution_id
        )


def test_it_happens_once_and_the_receipt_is_kept(begin: Callable[..., Effects], receiver: Receiver) -> None:
    first = begin().once("ticket", receiver.act, request={"title": "Broken"})
    again = begin("second", resumes=True).once("ticket", receiver.act)
    assert first == again == {"ticket": "T-1"}
    assert len(receiver.happened) == 1
    stored = _stored(begin("third", resumes=True), "ticket")
    assert (stored.status, stored.tries, stored.settled_by) == (EffectStatus.DONE, 1, "answer")
    assert stored.request == {"title": "Broken"}


def test_coroutines_are_awaited(begin: Callable[..., Effects], receiver: Receiver) -> None:
    effects = begin()

    async def act(key: str) -> dict[str, str]:
        await asyncio.sleep(0)
        return receiver.act(key)

    async def main() -> list[Any]:
        return list(await asyncio.gather(*(effects.once("ticket", act) for _ in range(5))))

    assert asyncio.run(main()) == [{"ticket": "T-1"}] * 5
    assert len(receiver.happened) == 1


def test_the_receiver_is_told_the_same_key_at_every_try(begin: Callable[..., Effects], receiver: Receiver) -> None:
    receiver.loses = ["answer"]
    with pytest.raises(ConnectionError):
        begin().once("ticket", receiver.act, idempotent=True)
    begin("second", resumes=True).once("ticket", receiver.act, idempotent=True)
    first, second = receiver.happened
    assert first == second
    assert begin("third", resumes=True).once("other", lambda key: key) != first


@pytest.mark.parametrize("lost", ["request", "answer"])
def test_a_lost_answer_is_found_by_the_probe_at_once(begin: Callable[..., Effects], receiver: Receiver, lost: str) -> None:
    receiver.loses = [lost]
    effects = begin()
    if lost == "answer":
        assert effects.once("ticket", receiver.act, probe=receiver.probe) == {"ticket": "T-1"}
        assert _stored(effects, "ticket").settled_by == "probe"
    else:
        with pytest.raises(ConnectionError):
            effects.once("ticket", receiver.act, probe=receiver.probe)
        assert _stored(effects, "ticket").status is EffectStatus.FAILED
        assert effects.once("ticket", receiver.act, probe=receiver.probe) == {"ticket": "T-1"}
    assert len(receiver.happened) == 1


@pytest.mark.parametrize("has_happened", [True, False])
def test_after_a_crash_the_probe_is_asked_before_anything_is_done(
    hub: Hub, begin: Callable[..., Effects], receiver: Receiver, has_happened: bool
) -> None:
    effects = begin()
    _leave_intended(hub, effects, "ticket")
    if has_happened:
        key: list[str] = []
        effects.once("what the key is", key.append)  # keys differ; the one of the ticket is taken from its own probe
        begin("second", resumes=True).once("ticket", receiver.act, probe=lambda: {"ticket": "T-9"})
        assert receiver.happened == []
    else:
        assert begin("second", resumes=True).once("ticket", receiver.act, probe=receiver.probe) == {"ticket": "T-1"}
        assert len(receiver.happened) == 1


def test_a_probe_that_fails_leaves_it_unknown_and_is_asked_again(begin: Callable[..., Effects], receiver: Receiver) -> None:
    receiver.loses = ["answer"]

    def broken() -> None:
        raise TimeoutError("no answer")

    effects = begin()
    with pytest.raises(TimeoutError):
        effects.once("ticket", receiver.act, probe=broken)
    assert _stored(effects, "ticket").status is EffectStatus.UNKNOWN
    assert effects.once("ticket", receiver.act, probe=receiver.probe) == {"ticket": "T-1"}
    assert len(receiver.happened) == 1


def test_what_cannot_be_found_out_is_asked_of_a_person(hub: Hub, begin: Callable[..., Effects], receiver: Receiver) -> None:
    receiver.loses = ["answer"]
    for run_id in ("first", "second", "third"):
        effects = begin(run_id, resumes=run_id != "first")
        with pytest.raises(EffectUnknown) as caught:
            effects.once("ticket", receiver.act)
    assert caught.value.error_class is ErrorClass.UNKNOWN_OUTCOME
    assert len(receiver.happened) == 1
    with hub.database.reading() as connection:
        (asked,) = hub.human_tasks.list(connection, is_open=True)
    assert asked.id == caught.value.human_task_id
    assert (asked.subject, asked.subject_id, asked.execution_id) == ("effect", caught.value.effect_id, effects.whom.execution_id)
    assert "lost on the way back" in asked.question


def test_a_failure_that_says_it_has_not_happened_may_be_tried_again(begin: Callable[..., Effects], receiver: Receiver) -> None:
    effects = begin()

    def refused() -> None:
        raise RuntimeFailure(ErrorClass.CONNECTION, "connection refused")

    def invalid() -> None:
        raise KeyError("title")

    with pytest.raises(RuntimeFailure):
        effects.once("ticket", refused)
    with pytest.raises(KeyError):
        effects.once("ticket", invalid, not_done=(KeyError,))
    assert effects.once("ticket", receiver.act) == {"ticket": "T-1"}
    assert _stored(effects, "ticket").tries == 3


def test_a_run_that_has_lost_the_execution_begins_nothing(begin: Callable[..., Effects], receiver: Receiver) -> None:
    first = begin()
    second = begin("second", resumes=True)
    with pytest.raises(RuntimeFailure, match="no longer run first's"):
        first.once("ticket", receiver.act)
    assert receiver.happened == []
    assert second.once("ticket", receiver.act) == {"ticket": "T-1"}


def test_a_receipt_that_comes_late_counts_unless_it_was_tried_again(hub: Hub, begin: Callable[..., Effects]) -> None:
    first = begin()

    def slow() -> str:
        # Meanwhile another run takes over and finds that nobody knows.
        with pytest.raises(EffectUnknown):
            begin("second", resumes=True).once("ticket", lambda: "never")
        return "late"

    assert first.once("ticket", slow) == "late"
    assert _stored(first, "ticket").status is EffectStatus.DONE


def test_who_acts_for_the_workspace_waits_for_another_execution_that_is_at_it(hub: Hub, begin: Callable[..., Effects]) -> None:
    holder = begin()

    async def main() -> tuple[Any, Any]:
        other_whom = holder.whom.model_copy(update={"execution_id": None, "run_id": "elsewhere", "scope": "run/elsewhere/step"})
        other = hub.effects_of(other_whom)
        began, goes_on = asyncio.Event(), asyncio.Event()

        async def hold() -> str:
            began.set()
            await goes_on.wait()
            return "one ticket"

        holding = asyncio.ensure_future(holder.once("ticket", hold, scope="workspace"))
        await began.wait()

        async def never() -> str:
            raise AssertionError("it is being done already")

        waiting = asyncio.ensure_future(other.once("ticket", never, scope="workspace"))
        for _ in range(5):
            await asyncio.sleep(0)
        goes_on.set()
        return await holding, await waiting

    assert asyncio.run(main()) == ("one ticket", "one ticket")


def test_what_somebody_abandoned_does_not_happen(hub: Hub, begin: Callable[..., Effects], receiver: Receiver) -> None:
    receiver.loses = ["answer"]
    effects = begin()
    with pytest.raises(EffectUnknown):
        effects.once("ticket", receiver.act)
    with hub.database.transaction() as connection:
        hub.ledger.effects.abandoned(connection, _stored(effects, "ticket"), by="kim")
    with pytest.raises(EffectAbandoned, match="abandoned by kim"):
        effects.once("ticket", receiver.act)
    assert len(receiver.happened) == 1


def test_receipts_and_errors_hold_no_secret(begin: Callable[..., Effects]) -> None:
    redactor.register("s3cret-value-of-the-test")
    effects = begin()
    effects.once("ticket", lambda: {"token": "s3cret-value-of-the-test"}, request="s3cret-value-of-the-test")

    def fail() -> None:
        raise ValueError("s3cret-value-of-the-test")

    with pytest.raises(EffectUnknown, match="ValueError") as caught:
        effects.once("other", fail)
    assert "s3cret" not in str(caught.value)
    for key in ("ticket", "other"):
        assert "s3cret" not in _stored(effects, key).model_dump_json()


def test_a_receipt_must_have_a_json_form(begin: Callable[..., Effects]) -> None:
    with pytest.raises(AgentPipelinesError, match="returned a value of type object"):
        begin().once("ticket", object)


def test_a_step_is_repeated_unless_it_has_a_result(begin: Callable[..., Effects]) -> None:
    calls: list[int] = []

    def think() -> int:
        calls.append(1)
        if len(calls) == 1:
            raise ConnectionError
        return len(calls)

    effects = begin()
    with pytest.raises(ConnectionError):
        effects.step("plan", think)
    assert effects.step("plan", think) == 2
    assert begin("second", resumes=True).step("plan", think) == 2
    assert len(calls) == 2


def test_what_acts_in_a_thread_of_its_own_may_use_the_callers_connections(begin: Callable[..., Effects]) -> None:
    import threading

    assert begin().once("ticket", threading.get_ident) == threading.get_ident()
