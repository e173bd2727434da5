"""Tasks as ops of a graph, for flows that are about effects and not about assets."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from agent_pipelines.components import outcome
from agent_pipelines.components.resource import resource_key
from agent_pipelines.components.step import execute
from agent_pipelines.core.task import TaskSpec


def agent_op(spec: TaskSpec, *, name: str | None = None) -> dg.OpDefinition:
    """Make an op that executes a task, on the agent of that name.

    Its input `value` is the variable `value` of the prompt, its input `after` only orders; both may be left out. Its output is
    what the agent gave back: JSON, or text. Nothing is given on if the execution was skipped, deduplicated or waits. Each place
    of the op in a graph, and each item that it is mapped over, is a work of its own.
    """

    @dg.op(
        name=name or f"{spec.application}__{spec.name}",
        description=spec.intent,
        ins={"value": dg.In(default_value=None), "after": dg.In(dg.Nothing)},
        out=dg.Out(is_required=False),
        tags={**spec.tags, "dagster/kind/agent": ""},
        pool=spec.pool,
        required_resource_keys={resource_key(agent) for agent in spec.agents},
    )
    def body(context: dg.OpExecutionContext, value: Any) -> Iterator[dg.Output[Any]]:
        variables = {} if value is None else {"value": value}
        result = execute(context, spec, item=context.get_step_execution_context().step.key, variables=variables)
        match outcome.verdict(result):
            case "ran" | "degraded":
                yield dg.Output(result.text if result.output is None else result.output, metadata=outcome.metadata(result))
            case "failed":
                raise outcome.failure(result)
            case _:
                return

    return body
