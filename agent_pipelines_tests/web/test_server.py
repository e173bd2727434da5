"""The whole web server as a process: Dagster's pages and our interface, over a real port."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from agent_pipelines.web.server import AddressError, is_loopback, listen
from agent_pipelines.web.token import FILE_NAME
from agent_pipelines_tests.engine.project import write_project
from agent_pipelines_tests.registry.conftest import DECLARED
from agent_pipelines_tests.web.conftest import task

DEFINITIONS = f"""
import dagster as dg


@dg.sensor(name="agent_pipelines__bursts__default", metadata={{"agent_pipelines/declared": {DECLARED.model_dump_json()!r}}})
def sensor():
    yield dg.SkipReason("nothing")


defs = dg.Definitions(sensors=[sensor])
"""


class Server:
    """`agent-pipelines web` in a process of its own."""

    def __init__(self, home: Path, workspace: Path) -> None:
        command = [sys.executable, "-m", "agent_pipelines.cli.main", "--home", str(home), "web", "--port", "0"]
        environment = {**os.environ, "DAGSTER_DISABLE_TELEMETRY": "1", "PYTHONUNBUFFERED": "1"}
        with (home / "web.log").open("w") as log:
            self._process = subprocess.Popen(
                [*command, "--workspace", str(workspace)],
                env=environment,
                cwd=workspace.parent,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        assert self._process.stdout is not None
        self.said = self._process.stdout.readline()
        assert self.said, (home / "web.log").read_text()
        self.url = self.said.partition(",")[0]

    def kill(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def stop(self) -> int:
        self._process.send_signal(signal.SIGINT)
        try:
            return self._process.wait(60)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("web") / "home"
    path.mkdir()
    (path / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    return path


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[Server]:
    running = Server(home, write_project(home.parent / "project", DEFINITIONS))
    yield running
    assert running.stop() in (0, 130)


@pytest.fixture
def client(server: Server, home: Path) -> Iterator[httpx.Client]:
    token = (home / FILE_NAME).read_text().strip()
    with httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {token}"}, timeout=60) as client:
        yield client


def test_it_says_where_it_is_and_keeps_the_token_to_itself(server: Server, home: Path) -> None:
    assert server.said.startswith("http://127.0.0.1:")
    assert server.said.rstrip().endswith(f"interface below /api/v1, its token in {home / FILE_NAME}")
    token = (home / FILE_NAME).read_text().strip()
    assert token not in server.said + (home / "web.log").read_text()


def test_dagsters_pages_are_as_ever(server: Server) -> None:
    with httpx.Client(base_url=server.url, timeout=60) as stranger:
        page = stranger.get("/")
        assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert "Content-Security-Policy" in page.headers
        assert stranger.get("/runs").status_code == 200  # a page of the UI that the browser draws
        asked = stranger.post("/graphql", json={"query": "{ version workspaceOrError { __typename } }"})
        assert asked.json()["data"]["workspaceOrError"]["__typename"] == "Workspace"
        assert stranger.get("/server_info").json()["dagster_version"] == asked.json()["data"]["version"]
        assert stranger.get("/favicon.svg").headers["content-type"].startswith("image/")


def test_graphql_keeps_its_websocket(server: Server) -> None:
    host, _, port = server.url.removeprefix("http://").partition(":")
    asked = (
        f"GET /graphql HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: graphql-ws\r\n\r\n"
    )
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(asked.encode())
        assert connection.recv(1_024).startswith(b"HTTP/1.1 101 ")


def test_a_task_goes_through_its_life(client: httpx.Client) -> None:
    made = client.post("/api/v1/tasks", json=task())
    assert (made.status_code, made.json()["task"]["version"]) == (201, 1)
    refused = client.post("/api/v1/tasks", json=task(agent="wrighter"))
    assert (refused.status_code, refused.json()["errors"][0]["fix"]) == (422, "Did you mean `writer`?")
    assert client.post("/api/v1/tasks/inbox/watch/pause", json={"reason": "why"}).json()["task"]["state"] == "paused"
    assert client.post("/api/v1/tasks/inbox/watch/run").status_code == 202
    assert len(client.get("/api/v1/ticks", params={"task": "watch"}).json()["ticks"]) == 1
    assert client.delete("/api/v1/tasks/inbox/watch").status_code == 200


def test_below_the_prefix_nobody_gets_in_without_the_token(server: Server) -> None:
    with httpx.Client(base_url=server.url, timeout=60) as stranger:
        for path in (
            "/api/v1/tasks",
            "/api/v1/",
            "/api/v1/openapi.json",
            "/api/v1//health",
            "/api/v1/health/../tasks",
        ):
            answer = stranger.get(path, follow_redirects=True)
            assert answer.status_code == 401, path
        assert stranger.get("/api/v1/health").json() == {"status": "ok"}
        assert stranger.get("/api/v1/nothing").json()["status"] == 401


def test_one_of_two_is_killed_and_the_other_has_all_that_was_done(server: Server, client: httpx.Client, home: Path) -> None:
    second = Server(home, home.parent / "project" / "workspace.yaml")
    with httpx.Client(base_url=second.url, headers=client.headers, timeout=60) as other:
        assert other.post("/api/v1/tasks", json=task(name="shared")).status_code == 201
    second.kill()
    assert client.get("/api/v1/tasks/inbox/shared").status_code == 200
    assert client.post("/graphql", json={"query": "{ version }"}).status_code == 200


def test_an_address_that_is_taken_is_told() -> None:
    with listen("127.0.0.1", 0) as taken, pytest.raises(AddressError, match="choose another with --port"):
        listen("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(AddressError, match=r"192\.0\.2\.1:0 cannot be listened on"):
        listen("192.0.2.1", 0)


@pytest.mark.parametrize(
    ("host", "expected"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("example.com", False)]
)
def test_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
