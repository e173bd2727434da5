from collections.abc import Iterator
from typing import Any

import dagster as dg

from agent_pipelines import agent_op
from agent_pipelines.core.execution import Status
from agent_pipelines_tests.components.running import definitions_of, executions, fake, task

HERE = __name__


def nothing_to_do(invocation: Any) -> str:
    return "nothing to do"


def _job(graph: dg.GraphDefinition) -> dg.JobDefinition:
    resources = definitions_of(agents=(fake(),)).resources or {}
    return graph.to_job(resource_defs=dict(resources))  # pyright: ignore


def test_values_and_order_go_from_op_to_op(instance: dg.DagsterInstance) -> None:
    ask = agent_op(task("ask", prompt="A question"))
    answer = agent_op(task("answer", prompt="Answer to: {{ value }}", variables={"value": ""}))
    seen: list[Any] = []

    @dg.op
    def keep(context: dg.OpExecutionContext, text: str) -> None:
        seen.append(text)

    @dg.graph
    def flow() -> None:
        asked = ask()
        keep(answer(value=asked, after=[asked]))

    assert _job(flow).execute_in_process(instance=instance).success
    assert seen == ["Answer to: A question"]
    [execution] = executions(instance, "answer")
    assert execution.invocation.variables == {"value": "A question"}
    assert (execution.item, execution.step) == ("default__answer", "default__answer")


def test_each_place_of_an_op_is_a_work_of_its_own(instance: dg.DagsterInstance) -> None:
    ask = agent_op(task("ask", prompt="{{ value }}", variables={"value": "nothing"}))

    @dg.op(out=dg.DynamicOut(str))
    def fan_out() -> Iterator[dg.DynamicOutput[str]]:
        for name in ("a", "b"):
            yield dg.DynamicOutput(name, mapping_key=name)

    @dg.graph
    def flow() -> None:
        fan_out().map(lambda name: ask(value=name))
        ask.alias("again")()

    assert _job(flow).execute_in_process(instance=instance).success
    found = {execution.item: execution.text for execution in executions(instance, "ask")}
    assert found == {"default__ask[a]": "a", "default__ask[b]": "b", "again": "nothing"}


def test_nothing_follows_a_skipped_execution(instance: dg.DagsterInstance) -> None:
    ask = agent_op(task("ask", gate=f"{HERE}:nothing_to_do"))
    follow = agent_op(task("follow", variables={"value": ""}))

    @dg.graph
    def flow() -> None:
        follow(value=ask())

    assert _job(flow).execute_in_process(instance=instance).success
    assert [execution.status for execution in executions(instance, "ask")] == [Status.SKIPPED]
    assert executions(instance, "follow") == []


def test_a_failure_fails_the_op(instance: dg.DagsterInstance) -> None:
    ask = agent_op(task("ask", retry={"max_attempts": 1}))

    @dg.graph
    def flow() -> None:
        ask()

    resources = definitions_of(agents=(fake(fail_times=1),)).resources or {}
    job = flow.to_job(resource_defs=dict(resources))  # pyright: ignore
    assert not job.execute_in_process(instance=instance, raise_on_error=False).success
    assert [execution.status for execution in executions(instance, "ask")] == [Status.FAILED]
