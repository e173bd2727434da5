"""One execution inside a Dagster step."""

from collections.abc import Mapping, Sequence
from typing import cast

import dagster as dg
from pydantic import JsonValue

from agent_pipelines.components import outcome
from agent_pipelines.components.deadline import deadline_of
from agent_pipelines.components.deployment import hub_of
from agent_pipelines.components.limits import note_limits_of
from agent_pipelines.components.request import Request
from agent_pipelines.components.resource import AgentResource, resource_key
from agent_pipelines.core.errors import ExecutionFailed
from agent_pipelines.core.execution import ExecutionResult, RunRef
from agent_pipelines.core.invocation import Invocation
from agent_pipelines.core.task import TaskSpec
from agent_pipelines.engine.launch import tag
from agent_pipelines.execution.checks import load_checks, load_gate
from agent_pipelines.runtimes.fleet import Agent

VERDICT_TAG = tag("verdict")
"""Tag of a run that says what became of its request, where that is not plain from Dagster's own status."""


def execute(
    context: dg.OpExecutionContext | dg.AssetExecutionContext,
    spec: TaskSpec,
    *,
    item: str | None = None,
    partition: str | None = None,
    variables: Mapping[str, JsonValue] | None = None,
    followers: Sequence[TaskSpec] = (),
) -> ExecutionResult:
    """Execute what the run of a step asks of a task; `followers` are the tasks after it, which leave it a deadline.

    Raises dg.Failure if the request itself cannot be read; a failed execution is in the result.
    """
    hub = hub_of(context.instance)
    invocation, run = asked(context, spec, item=item, partition=partition, variables=variables)
    invocation = invocation.model_copy(update={"deadline_at": deadline_of(hub, spec, followers, invocation, run)})
    note_limits_of(hub, context)
    agent, *others = [agent_of(context, name) for name in spec.agents]
    result = hub.runner.execute(invocation, spec, agent, run=run, checks=load_checks(spec), gate=load_gate(spec), others=others)
    show(context, result)
    return result


def asked(
    context: dg.OpExecutionContext | dg.AssetExecutionContext,
    spec: TaskSpec,
    *,
    item: str | None = None,
    partition: str | None = None,
    variables: Mapping[str, JsonValue] | None = None,
) -> tuple[Invocation, RunRef]:
    """What the run of a step asks of a task. Raises dg.Failure if that cannot be read."""
    step = context.get_step_execution_context().step.key
    hub = hub_of(context.instance)
    request = Request(hub, context.instance, context.run, spec, step, item, partition, variables or {})
    try:
        return request.read()
    except ExecutionFailed as error:
        raise dg.Failure(f"{error.error_class}: {error.message}", allow_retries=False) from error


def agent_of(context: dg.OpExecutionContext | dg.AssetExecutionContext, name: str) -> Agent:
    """An agent that a step requires, ready to work; its user closes it."""
    return cast("AgentResource", getattr(context.resources, resource_key(name))).create()


def show(context: dg.OpExecutionContext | dg.AssetExecutionContext, result: ExecutionResult) -> None:
    """Say in the log and in the tags of a run what became of its request."""
    verdict = outcome.verdict(result)
    reason = f": {result.reason}" if result.reason else ""
    context.log.info(f"{VERDICT_TAG} {verdict}{reason}, execution {result.execution_id}")
    # The tag of a parent is copied to the runs that execute it again; it must not stay there.
    if verdict not in ("ran", "failed") or VERDICT_TAG in context.run.tags:
        context.instance.add_run_tags(context.run.run_id, {VERDICT_TAG: verdict})
