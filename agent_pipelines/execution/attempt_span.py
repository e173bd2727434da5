"""The span of one attempt."""

from agent_pipelines.core.clock import Microseconds
from agent_pipelines.core.event import Usage
from agent_pipelines.execution.recorder import Recorder
from agent_pipelines.execution.work import Work


def add_attempt(
    work: Work, recorder: Recorder, usage: Usage, started_at: Microseconds, finished_at: Microseconds, error: str | None
) -> None:
    """Add the span of the attempt that has ended to the trace of its work; `error` is the class of what went wrong."""
    work.trace.add(
        f"invoke_agent {work.place.agent.name}",
        started_at,
        finished_at,
        span_id=recorder.span_id,
        error=error,
        attributes={
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.provider.name": work.place.node.runtime.kind,
            "gen_ai.agent.name": work.place.agent.name,
            "gen_ai.response.model": recorder.model,
            "gen_ai.conversation.id": work.invocation.session_id,
            "gen_ai.usage.input_tokens": usage.input_tokens,
            "gen_ai.usage.output_tokens": usage.output_tokens,
            "agent_pipelines.attempt": recorder.attempt,
            "agent_pipelines.node": work.place.node.name,
        },
    )
