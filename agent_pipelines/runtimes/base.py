"""What every runtime adapter is."""

import os
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
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


ConfigT = TypeVar("ConfigT", bound=RuntimeConfig)


class Runtime(ABC, Generic[ConfigT]):
    """An endpoint that agents run on.

    `stream` yields the events of one attempt and ends with exactly one `Final`, or raises `RuntimeFailure` with the
    class of the error; success is decided by what the runtime says, never by an HTTP status alone. It does not retry,
    cache, budget, log or store. When the task that consumes it is cancelled it stops the work (closes the stream,
    kills the process group) before it lets the cancellation through. `close` frees connections.
    """

    kind: ClassVar[str]
    config_type: ClassVar[type[RuntimeConfig]]
    capabilities: Capabilities  # of the class; an instance narrows them by its settings

    def __init__(self, config: ConfigT) -> None:
        self.config = config

    @abstractmethod
    def stream(self, invocation: Invocation) -> AsyncGenerator[AgentEvent, None]:
        """Run one attempt of the invocation."""

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
