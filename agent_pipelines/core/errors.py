"""What can go wrong, in the classes that decide what happens next."""

from enum import StrEnum
from pathlib import Path


class ErrorClass(StrEnum):
    """Why an attempt failed. The retry policy of a task is written in these words."""

    AUTHENTICATION = "authentication"  # credentials missing, wrong or expired
    PERMISSION = "permission"  # known caller, forbidden action
    QUOTA = "quota"  # an allowance is used up; waiting seconds does not help
    RATE_LIMIT = "rate_limit"  # too many requests just now
    INVALID_REQUEST = "invalid_request"  # the runtime refused what we asked
    NOT_FOUND = "not_found"  # the agent, model or session does not exist there
    NO_AGENT = "no_agent"  # no node of the agent could take the work
    CONNECTION = "connection"  # the request was certainly not accepted: refused, unresolved
    UNKNOWN_OUTCOME = "unknown_outcome"  # sent, no usable answer: it may have been acted on
    TIMEOUT = "timeout"  # our own limit ended it
    SERVER = "server"  # the runtime failed (5xx)
    OVERLOADED = "overloaded"  # the runtime says it is busy (503, 529)
    PROTOCOL = "protocol"  # an answer that the adapter cannot read
    AGENT = "agent"  # the agent itself reports that it failed
    REFUSED = "refused"  # the model declined, or a filter did
    OUTPUT = "output"  # the result violates the declared schema
    CHECK = "check"  # a blocking check of the task failed
    CONTEXT = "context"  # the prompt cannot be composed
    COMPENSATED = "compensated"  # a step failed for good, and what was done before it is undone
    CANCELLED = "cancelled"  # somebody asked for the end
    INTERNAL = "internal"  # a fault of this product


class Stage(StrEnum):
    """The part of an execution in which something happened."""

    ADMIT = "admit"
    COMPOSE = "compose"
    INVOKE = "invoke"
    SETTLE = "settle"


class AgentPipelinesError(Exception):
    """The base of every error that this library raises on purpose."""


class DefinitionError(AgentPipelinesError):
    """A declaration cannot be used: says which field of which file, and what would be right."""

    def __init__(self, problem: str, *, field: str | None = None, file: Path | str | None = None, fix: str | None = None) -> None:
        self.problem = problem
        self.field = field
        self.file = file
        self.fix = fix
        where = ", ".join(part for part in (str(file) if file else "", f"field `{field}`" if field else "") if part)
        super().__init__(f"{where + ': ' if where else ''}{problem}{'. ' + fix if fix else ''}")


class MissingExtraError(AgentPipelinesError):
    """An optional package is not installed: names the package and the extra that brings it."""

    def __init__(self, package: str, extra: str, feature: str) -> None:
        super().__init__(f"{feature} needs the package `{package}`: pip install 'agent-pipelines[{extra}]'")


class RuntimeFailure(AgentPipelinesError):
    """An attempt failed, in the words the retry policy understands.

    `retry_after` is in seconds, as the runtime asked. `status` is the HTTP status or exit code, if there was one. `tries` is how
    often the runtime itself has tried within the attempt.
    """

    def __init__(
        self,
        error_class: ErrorClass,
        message: str,
        *,
        retry_after: float | None = None,
        status: int | None = None,
        code: str | None = None,
        tries: int = 1,
    ) -> None:
        super().__init__(message)
        self.error_class = error_class
        self.message = message
        self.tries = tries
        self.retry_after = retry_after
        self.status = status
        self.code = code


class ExecutionFailed(AgentPipelinesError):
    """An execution ended without the result that its task asked for."""

    def __init__(self, error_class: ErrorClass, stage: Stage, message: str) -> None:
        super().__init__(message)
        self.error_class = error_class
        self.stage = stage
        self.message = message


class IllegalTransition(AgentPipelinesError):
    """The record refused a change of state."""


class StorageError(AgentPipelinesError):
    """The database cannot be used: locked, missing, of a newer version, or out of space."""
