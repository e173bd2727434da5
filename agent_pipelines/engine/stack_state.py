"""What the process that keeps a stack alive says of it: a file in DAGSTER_HOME, for who looks and for who comes next."""

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from agent_pipelines.core.clock import Microseconds
from agent_pipelines.engine.warm.identity import OwnedProcess, ProcessIdentity

FILE_NAME = "stack.json"


@dataclass(frozen=True)
class ServiceState:
    """One process that is kept alive; `pid` is None while it waits to be started again.

    `since_at` is the start or, without a process, the death; `exit_code` is that of the process before.
    """

    name: str
    pid: int | None
    started: str | None
    since_at: Microseconds
    restarts: int
    exit_code: int | None

    @property
    def is_alive(self) -> bool:
        return self.pid is not None and self.started is not None and ProcessIdentity(self.pid, self.started).is_alive()


@dataclass(frozen=True)
class StackState(OwnedProcess):
    """A stack: the process that keeps its services alive, and `owner`, that of `agent-pipelines up`, which is to be stopped."""

    host: str
    pid: int
    started: str
    owner_pid: int
    owner_started: str
    since_at: Microseconds
    url: str
    restarts: int
    is_ending: bool
    services: tuple[ServiceState, ...]

    @classmethod
    def of_home(cls, home: Path) -> Self | None:
        """What was said last in a home; None if there is nothing, or nothing that this version understands."""
        with suppress(OSError, ValueError, TypeError, KeyError):
            found = json.loads((home / FILE_NAME).read_text())
            return cls(**found | {"services": tuple(ServiceState(**each) for each in found["services"])})
        return None

    @property
    def is_alive(self) -> bool:
        """Whether its process lives, here. Its id alone would not say so: that is given again."""
        return self.is_here and self.process.is_alive()

    def write(self, home: Path) -> None:
        """Say it."""
        temporary = home / f"{FILE_NAME}.{os.getpid()}"
        temporary.write_text(json.dumps(asdict(self)))
        os.replace(temporary, home / FILE_NAME)


def forget_stack(home: Path) -> None:
    """Remove what was said of a stack that has ended."""
    (home / FILE_NAME).unlink(missing_ok=True)
