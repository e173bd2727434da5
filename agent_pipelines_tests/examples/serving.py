"""The servers of the examples as real processes."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).parents[2]


class ServerProcess:
    """A module that is run with `--ready-file`, reached once that file is there, and ended with the block."""

    module = ""

    def __init__(self, home: Path, **environment: str) -> None:
        self._home = home
        self._environment = environment

    def __enter__(self) -> Self:
        self._home.mkdir(parents=True, exist_ok=True)
        ready = self._home / f"{self.module}.ready"
        ready.unlink(missing_ok=True)
        clean = {name: value for name, value in os.environ.items() if not name.startswith("AGENT_")}
        environment = {**clean, "EXAMPLES_HOME": str(self._home), **self._environment}
        command = [sys.executable, "-m", self.module, "--port", "0", "--ready-file", str(ready)]
        self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
        while not ready.exists():
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.module} ended: {self.process.communicate()[1]}")
            time.sleep(0.02)
        told: dict[str, Any] = json.loads(ready.read_text())
        self.pid, self.port = int(told["pid"]), int(told["port"])
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.communicate()


class AgentServer(ServerProcess):
    """`python -m examples.agents`."""

    module = "examples.agents"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"


class MailServer(ServerProcess):
    """`python -m examples.agents.mail_server`."""

    module = "examples.agents.mail_server"
