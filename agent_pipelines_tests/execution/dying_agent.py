"""An execution in a process that kills itself where it is told to:

    python -m agent_pipelines_tests.execution.dying_agent DONE DIE

Reads {"url", "request", "number"} on stdin. The file DONE gets a line for each effect; DIE names the effect and the
point at which the process ends with SIGKILL, once.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from agent_pipelines import effects
from agent_pipelines.core.execution import RunRef
from agent_pipelines.core.invocation import Invocation
from agent_pipelines.execution.bridge import run
from agent_pipelines.hub import open_hub
from agent_pipelines.ledger.effects import Effects
from agent_pipelines.runtimes.python import PythonConfig, PythonRuntime
from agent_pipelines_tests.execution.conftest import spec
from agent_pipelines_tests.execution.scripted import agent

STEPS = ("one", "two", "three")
FILES = "DYING_AGENT_FILES"


def _files() -> tuple[Path, Path]:
    done, die = os.environ[FILES].split(os.pathsep)
    return Path(done), Path(die)


def _reach(step: str, point: str) -> None:
    _, die = _files()
    if die.read_text() != f"{step} {point}":
        return
    die.write_text("")
    # A synchronous agent is a child: its parent, which carries the execution, dies with it.
    if "python_child" in sys.modules["__main__"].__spec__.name:  # pyright: ignore[reportOptionalMemberAccess]
        os.kill(os.getppid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def _act(step: str) -> str:
    done, _ = _files()
    with done.open("a") as file:
        file.write(f"{step}\n")
    _reach(step, "in the effect")
    return step


def _probe(step: str) -> str | None:
    done, _ = _files()
    return step if done.exists() and step in done.read_text().split() else None


def _watch() -> None:
    """Die between what the agent has done and what is recorded of it."""
    intend, done = Effects.intend, Effects.done

    def watched_intend(self: Effects, connection: Any, task: Any, key: str, *, name: str, **more: Any) -> Any:
        _reach(name, "before the intent")
        return intend(self, connection, task, key, name=name, **more)

    def watched_done(self: Effects, connection: Any, effect: Any, receipt: Any, *, by: str) -> Any:
        _reach(effect.name, "before the receipt")
        return done(self, connection, effect, receipt, by=by)

    Effects.intend = watched_intend  # pyright: ignore[reportAttributeAccessIssue]
    Effects.done = watched_done  # pyright: ignore[reportAttributeAccessIssue]


async def work_async(invocation: Invocation) -> str:
    """An asynchronous agent with three effects."""
    _watch()
    said: list[str] = []
    for step in STEPS:

        async def act(step: str = step) -> str:
            return _act(step)

        said.append(await effects.once(step, act, probe=lambda step=step: _probe(step)))
        _reach(step, "after the receipt")
    return " ".join(said)


def work_sync(invocation: Invocation) -> str:
    """The same in a child process."""
    _watch()
    said: list[str] = []
    for step in STEPS:
        said.append(effects.once(step, lambda step=step: _act(step), probe=lambda step=step: _probe(step)))
        _reach(step, "after the receipt")
    return " ".join(said)


def main() -> None:
    os.environ[FILES] = os.pathsep.join(sys.argv[1:])
    given = json.load(sys.stdin)
    request, number = Invocation.model_validate(given["request"]), given["number"]
    name = f"{__spec__.name}:work_{request.variables['kind']}"
    ref = RunRef(run_id=f"run-{number}", parent_run_id=f"run-{number - 1}" if number else None, resumes=number > 0)
    hub = open_hub(given["url"])
    worker = agent(PythonRuntime(PythonConfig(function=name)))
    result = run(hub.runner.run(request, spec(), worker, run=ref))
    sys.exit(0 if result.status == "succeeded" else f"{result.status}: {result.error_message}")


if __name__ == "__main__":
    main()
