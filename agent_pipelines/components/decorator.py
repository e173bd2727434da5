"""Tasks that are Python functions."""

# Dagster is imported when it asks for the task: a function of its own process is found by importing its module.
import inspect
from collections.abc import Callable, Sequence
from functools import update_wrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, cast

if TYPE_CHECKING:
    from agent_pipelines.components.task import AgentTask
    from agent_pipelines.core.trigger import Trigger

Parameters = ParamSpec("Parameters")
Returned = TypeVar("Returned")


class FunctionTask(Generic[Parameters, Returned]):
    """A function that is a task. Calling it calls the function; Dagster finds the task where the defs folder is loaded."""

    def __init__(self, function: Callable[Parameters, Returned], declared: dict[str, Any]) -> None:
        update_wrapper(cast("Any", self), function)
        self.function = function
        self._declared = declared

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if len(args) == 1 and not kwargs and _is_load_context(args[0]):
            return self.task(root=args[0].project_root)
        return cast("Callable[..., Any]", self.function)(*args, **kwargs)

    @property
    def __signature__(self) -> inspect.Signature:
        # Dagster reads the type of a component from what its loader says to return.
        from agent_pipelines.components.task import AgentTask

        return inspect.signature(self.function).replace(return_annotation=AgentTask)

    def task(self, *, root: Path | None = None) -> "AgentTask":
        """The declared task. Raises DefinitionError."""
        from agent_pipelines.components.source import Source
        from agent_pipelines.components.task import AgentTask

        function = self.function
        source = Source(Path(inspect.getfile(function)), root)
        if "<locals>" in function.__qualname__ or function.__module__ == "__main__":
            where = f"{function.__module__}:{function.__qualname__}"
            raise source.problem(f"{where} cannot be imported by its name", fix="Move the function to the top level of a module")
        declared = {name: value for name, value in self._declared.items() if value is not None}
        values = {"name": function.__name__, "intent": inspect.getdoc(function) or "", **declared}
        return AgentTask.of_function(f"{function.__module__}:{function.__qualname__}.function", values, source)


def agent_task(
    *,
    intent: str | None = None,
    application: str = "default",
    name: str | None = None,
    triggers: "Sequence[Trigger]" = (),
    **declared: Any,
) -> Callable[[Callable[Parameters, Returned]], FunctionTask[Parameters, Returned]]:
    """Make a task of a Python function: the function is its agent.

    The function takes the invocation; it may be asynchronous, return text or JSON, or yield text and events. Its name and its
    docstring are the name and the intent of the task, unless others are given. `declared` are further fields of TaskSpec.

        @agent_task(application="finance", triggers=[Cron(cron="0 6 * * *")])
        def balance(invocation: Invocation) -> dict[str, float]:
            \"\"\"Sum up the day.\"\"\"
            return {"total": total_of(invocation.logical_at)}
    """
    given = {"intent": intent, "application": application, "name": name, "triggers": tuple(triggers), **declared}

    def decorate(function: Callable[Parameters, Returned]) -> FunctionTask[Parameters, Returned]:
        return FunctionTask(function, given)

    return decorate


def _is_load_context(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] == "dagster"


# The mark that Dagster's `component_instance` leaves on a loader function.
setattr(FunctionTask, "__dagster_component_loader_fn", True)
