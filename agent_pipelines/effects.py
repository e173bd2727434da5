"""Acting on the world once, from an agent or from any op.

In a Python agent call `effects.once(...)`; in an op or asset of your own `effects.of(context).once(...)`.
"""

from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from agent_pipelines.core.acting import Acting, acting
from agent_pipelines.core.errors import AgentPipelinesError
from agent_pipelines.execution.effects import EffectAbandoned, Effects, EffectUnknown, effects_here
from agent_pipelines.execution.saga import Saga, SagaFailed
from agent_pipelines.hub import open_hub

if TYPE_CHECKING:
    from agent_pipelines.engine.step import StepContext

__all__ = ["EffectAbandoned", "EffectUnknown", "Effects", "Saga", "SagaFailed", "current", "of", "once", "saga", "step"]


def current() -> Effects:
    """The effects of the execution that the caller works for. Raises AgentPipelinesError outside of any."""
    here = effects_here()
    if here is not None:
        return here
    whom = acting()
    if whom is None:
        raise AgentPipelinesError(
            "no execution is at work here; in an op or asset of your own write `effects.of(context).once(...)`"
        )
    key = (whom.run_id, whom.execution_id)
    if key not in _of_process:
        _of_process[key] = open_hub(whom.database_url.get_secret_value()).effects_of(whom)
    return _of_process[key]


_of_process: dict[tuple[str, str | None], Effects] = {}
"""By run and execution: one for all who act in this process, because it knows what is in flight."""


def of(context: "StepContext") -> Effects:
    """The effects of a step of a Dagster run. A run that resumes another keeps its keys; any other has its own."""
    # Dagster is there already; an agent in a process of its own does without it.
    from agent_pipelines.engine.gateway import DagsterGateway
    from agent_pipelines.engine.place import database_url
    from agent_pipelines.engine.step import RunStep

    step = RunStep.of(context)
    url = database_url(context.instance)
    whom = Acting(
        workspace="default",
        application=step.job,
        task=step.key,
        scope=f"run/{step.first_run_id}/{step.key}",
        run_id=step.run_id,
        database_url=SecretStr(url),
    )
    return open_hub(url).effects_of(whom, run_is_over=DagsterGateway(context.instance).is_over)


def once(key: str, do: Any, **options: Any) -> Any:
    """Make an effect of the current execution happen once; see `Effects.once`."""
    return current().once(key, do, **options)


def step(key: str, do: Any) -> Any:
    """Do a part of the current execution's work once, and keep its result; see `Effects.step`."""
    return current().step(key, do)


def saga(name: str) -> Saga:
    """Steps that are undone when one of them fails; see `Saga`."""
    return Saga(current(), name)
