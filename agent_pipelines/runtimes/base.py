"""What every runtime adapter is."""

import os
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, SecretStr

from agent_pipelines.core.errors import ErrorClass, RuntimeFailure
from agent_pipelines.core.event import AgentEvent
from agent_pipelines.core.invocation import Invocation
from agent_pipelines.core.secrets import redactor


class RuntimeConfig(BaseModel):
    """Settings of one endpoint. Secrets are named by environment variable and never appear here."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Capabilities(BaseModel):
    """What a runtime can do, so that a task which asks for more is refused at load."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    keeps_sessions: bool = False  # continues its own session by id; otherwise history is resent
    streams: bool = False  # yields pieces of the answer before the end
    reports_usage: bool = False
    honours_idempotency_key: bool = False  # the same key twice acts once
    cancels: bool = False  # ending the stream ends the work there
    structured_output: bool = False  # takes a JSON Schema and answers with `Final.output`
    hands_over: bool = False  # work goes on there after the stream has ended, and is polled by its handle


@dataclass(frozen=True)
class StillRunning:
    """The work goes on there; `retry_after` is in seconds, as the runtime asked."""

    retry_after: float | None = None


@dataclass(frozen=True)
class Finished:
    """The work has ended there: its events since it was handed over, the `Final` last."""

    events: Sequence[AgentEvent]


Progress = StillRunning | Finished | RuntimeFailure
"""How work that was handed over stands; a failure is its end."""


ConfigT = TypeVar("ConfigT", bound=RuntimeConfig)


class Runtime(ABC, Generic[ConfigT]):
    """An endpoint that agents run on.

    `stream` yields the events of one attempt and ends with exactly one `Final`, or raises `RuntimeFailure` with the
    class of the error; success is decided by what the runtime says, never by an HTTP status alone. It does not retry,
    cache, budget, log or store. When the task that consumes it is cancelled it stops the work (closes the stream,
    kills the process group) before it lets the cancellation through. `close` frees connections.

    A runtime that `hands_over` yields a `Handle` with `poll_after` as soon as it has one, and may end its stream without a
    `Final` from then on. The work is asked after by `poll` and ended by `cancel`, in other processes than the one that began it.
    """

    kind: ClassVar[str]
    config_type: ClassVar[type[RuntimeConfig]]
    stops_by: str = "closed its stream"
    """What it does when it is cancelled, for the record."""
    capabilities: Capabilities  # of the class; an instance narrows them by its settings
    polls_at_once: int = 100  # handles that one `poll` may be given

    def __init__(self, config: ConfigT) -> None:
        self.config = config

    @abstractmethod
    def stream(self, invocation: Invocation) -> AsyncGenerator[AgentEvent, None]:
        """Run one attempt of the invocation."""

    async def poll(self, handles: Sequence[str]) -> Mapping[str, Progress]:
        """How works that were handed over stand, by their handles; of one that is left out nothing is known just now.

        Raises RuntimeFailure if nobody can be asked just now. The caller passes up to `polls_at_once` handles.
        """
        raise NotImplementedError(f"the runtime {self.kind!r} hands nothing over")

    async def cancel(self, handle: str) -> None:
        """Ask for the end of work that was handed over. Raises RuntimeFailure if the other side does not take it."""
        raise NotImplementedError(f"the runtime {self.kind!r} hands nothing over")

    async def health(self) -> None:
        """Look whether the endpoint would answer, without any work. Raises RuntimeFailure if it would not.

        Raises NotImplementedError where there is no way to tell; then an attempt has to find out.
        """
        raise NotImplementedError

    async def close(self) -> None:
        """Free what the adapter holds open."""


def secret_from_environment(variable: str | None) -> SecretStr | None:
    """Read a secret by the name of its environment variable and keep it out of all records.

    None if no name is given. Raises RuntimeFailure (authentication) if the variable is not set.
    """
    if variable is None:
        return None
    value = os.environ.get(variable)
    if not value:
        raise RuntimeFailure(ErrorClass.AUTHENTICATION, f"environment variable {variable} is not set; it holds the runtime's key")
    redactor.register(value)
    return SecretStr(value)
