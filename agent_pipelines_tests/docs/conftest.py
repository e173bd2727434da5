import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_pipelines_tests.docs.markdown import ROOT
from agent_pipelines_tests.docs.warm import client


@pytest.fixture(scope="session")
def commands() -> Iterator[Path]:
    """A directory with an `agent-pipelines` that starts fast."""
    directory = Path(tempfile.mkdtemp(prefix="docs-"))  # short: the path of a socket has few characters
    address = directory / "warm"
    with (directory / "log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "agent_pipelines_tests.docs.warm", str(address)], cwd=ROOT, stdout=log, stderr=log
        )
    program = directory / "bin" / "agent-pipelines"
    program.parent.mkdir()
    program.write_text(client(address))
    program.chmod(0o755)
    try:
        while not address.exists():
            assert server.poll() is None, (directory / "log").read_text()
            try:
                server.wait(0.05)
            except subprocess.TimeoutExpired:
                continue
        yield program.parent
    finally:
        server.kill()
        server.wait()
        shutil.rmtree(directory, ignore_errors=True)
