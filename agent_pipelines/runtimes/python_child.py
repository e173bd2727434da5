"""The process that a synchronous Python agent runs in: `python -m agent_pipelines.runtimes.python_child module:function`.

Reads {"path": sys.path, "acting": ..., "invocation": ...} on stdin. Writes a JSON line for each event, and {"failure": ...} for
an error, to what was stdout at its start; what the function prints goes to stderr.
"""

import importlib
import json
import os
import select
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from agent_pipelines.core.acting import Acting, acting_for
from agent_pipelines.core.invocation import Invocation
from agent_pipelines.runtimes.python_result import PythonResult, failure_of_exception


def resolve(name: str) -> Callable[..., Any]:
    """Import `module:function`."""
    module, _, path = name.partition(":")
    found: Any = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    return found


def main() -> None:
    """Run the function that the command line names."""
    with os.fdopen(os.dup(1), "wb") as events:
        os.dup2(2, 1)
        threading.Thread(target=_end_with_reader, args=(events.fileno(),), daemon=True).start()
        # Lets `finally` blocks run within the grace.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))

        request = json.load(sys.stdin)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        sys.path[:] = request["path"]

        def write(line: str) -> None:
            events.write(line.encode() + b"\n")
            events.flush()

        result = PythonResult()
        try:
            acts_for = request["acting"]
            with nullcontext() if acts_for is None else acting_for(Acting.model_validate(acts_for)):
                returned = resolve(sys.argv[1])(Invocation.model_validate(request["invocation"]))
                for event in result.take_returned(returned):
                    write(event.model_dump_json())
            for event in result.finish():
                write(event.model_dump_json())
        except BaseException as error:
            failure = failure_of_exception(error)
            fields = {name: getattr(failure, name) for name in ("error_class", "message", "retry_after", "status", "code")}
            write(json.dumps({"failure": fields, "notes": getattr(failure, "__notes__", [])}))


def _end_with_reader(pipe: int) -> None:
    # Nobody reads the events any more: the parent was killed and could not end this group itself.
    poll = select.poll()
    poll.register(pipe, 0)
    poll.poll()
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
