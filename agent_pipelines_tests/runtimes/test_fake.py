import asyncio

import pytest

from agent_pipelines.core.clock import ManualClock
from agent_pipelines.core.errors import ErrorClass, RuntimeFailure
from agent_pipelines.core.event import Final, Text, ToolCall, Usage, UsageReport
from agent_pipelines.runtimes.fake import FakeConfig, FakeRuntime, Pause
from agent_pipelines_tests.runtimes.invoking import collect, failure, final, invocation, run
from agent_pipelines_tests.runtimes.waiting import a_until


def test_without_a_script_it_repeats_the_last_message() -> None:
    assert run(FakeRuntime(), "anything") == [Text(text="anything"), Final(text="anything")]


def test_replies_follow_each_other_and_the_last_stays() -> None:
    agent = FakeRuntime(FakeConfig(replies=("one", {"total": 3}, [1])))
    assert [final(run(agent)).text for _ in range(4)] == ["one", '{"total": 3}', "[1]", "[1]"]
    assert final(run(agent)).output == [1]


def test_it_fails_as_often_as_it_is_told() -> None:
    agent = FakeRuntime(FakeConfig(fail_times=2, error_class=ErrorClass.OVERLOADED, replies=("one", "two")))
    assert [failure(agent).error_class for _ in range(2)] == [ErrorClass.OVERLOADED] * 2
    assert [final(run(agent)).text for _ in range(2)] == ["one", "two"]


def test_usage_is_reported_for_each_attempt() -> None:
    usage = Usage(input_tokens=5, output_tokens=2)
    assert run(FakeRuntime(FakeConfig(usage=usage)))[0] == UsageReport(usage=usage)


def test_a_script_has_events_pauses_and_failures() -> None:
    clock = ManualClock()
    call = ToolCall(id="1", name="look")
    agent = FakeRuntime(script=[[call, Pause(2.5), "seen"], RuntimeFailure(ErrorClass.QUOTA, "no more")], clock=clock)
    assert run(agent) == [call, Text(text="seen"), Final(text="seen")]
    assert clock.sleeps == [2.5]
    assert failure(agent).error_class is ErrorClass.QUOTA


def test_a_pause_without_end_lasts_until_it_is_cancelled() -> None:
    async def main() -> None:
        agent = FakeRuntime(script=[["a", Pause()]])
        task = asyncio.create_task(collect(agent, invocation()))
        await a_until(lambda: agent.invocations)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


def test_it_keeps_what_it_was_asked() -> None:
    agent = FakeRuntime()
    requests = [invocation("one"), invocation("two")]
    for request in requests:
        run(agent, request)
    assert agent.invocations == requests


def test_attempts_are_counted_for_each_invocation_by_itself() -> None:
    """As executions that share an agent in a burst need it."""
    agent = FakeRuntime(FakeConfig(fail_times=1, replies=("done",)))
    for number in range(3):
        request = invocation("x").model_copy(update={"occurrence": str(number)})
        with pytest.raises(RuntimeFailure):
            asyncio.run(collect(agent, request))
        assert final(asyncio.run(collect(agent, request))).text == "done"
