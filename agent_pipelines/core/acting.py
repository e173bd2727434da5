"""On whose behalf code acts: what it takes to keep a record of its effects, wherever it runs."""

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

from pydantic import BaseModel, ConfigDict, SecretStr

from agent_pipelines.core.task import TaskKey


class Acting(BaseModel):
    """The execution, or the step of a Dagster run, that code works for.

    `scope` begins the keys of its effects: the same for every try of the same work. `database_url` goes to child
    processes of the same execution, and nowhere else.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    workspace: str
    application: str
    task: str
    scope: str
    run_id: str
    execution_id: str | None = None
    database_url: SecretStr

    @property
    def task_key(self) -> TaskKey:
        """Workspace, application, name."""
        return (self.workspace, self.application, self.task)

    def to_child(self) -> dict[str, str | None]:
        """The JSON form for a child process, the secret included."""
        return {**self.model_dump(mode="json"), "database_url": self.database_url.get_secret_value()}


_current: ContextVar[Acting | None] = ContextVar("agent_pipelines_acting", default=None)


def acting() -> Acting | None:
    """On whose behalf the caller acts; None outside of any execution."""
    return _current.get()


@contextmanager
def acting_for(whom: Acting) -> Generator[None]:
    """Have what is called in the block act on behalf of an execution."""
    token = _current.set(whom)
    try:
        yield
    finally:
        _current.reset(token)
