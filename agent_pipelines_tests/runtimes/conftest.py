from collections.abc import Iterator

import pytest

from agent_pipelines_tests.runtimes.scripted_server import ScriptedServer, running


@pytest.fixture(scope="module")
def server() -> Iterator[ScriptedServer]:
    with running() as server:
        yield server
