import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

from agent_pipelines.core.clock import SystemClock
from agent_pipelines.core.execution import ExecutionResult, RunRef, Status
from agent_pipelines.core.ids import new_id
from agent_pipelines.hub import Hub
from agent_pipelines.runtimes.fleet import Agent, Node
from agent_pipelines.runtimes.node import NodeConfig, NodeRuntime
from agent_pipelines.store.database import Database
from agent_pipelines.store.migration import migrate
from agent_pipelines_tests.e2e.serving_nodes import TOKEN, serving
from agent_pipelines_tests.execution.conftest import invocation, spec
from agent_pipelines_tests.runtimes.waiting import a_until


def _start(path: Path, port: int, name: str, settings: str) -> "subprocess.Popen[str]":
    (path / f"{name}.yaml").write_text(settings)
    arguments = ["node", "run", "--agent", "worker", "--name", name, "--url", f"http://127.0.0.1:{port}", "--capacity", "2"]
    arguments += ["--runtime", "command", "--config", str(path / f"{name}.yaml"), "--label", "zone=b"]
    return subprocess.Popen(
        [sys.executable, "-m", "agent_pipelines.cli.main", *arguments],
        env={**os.environ, "AGENT_PIPELINES_API_TOKEN": TOKEN},
        stderr=subprocess.PIPE,
        text=True,
    )


def _live(hub: Hub) -> list[str]:
    with hub.database.reading() as connection:
        return [node.name for node in hub.fleet.nodes.of(connection, "worker") if node.state(hub.clock.now()) == "live"]


def test_a_node_works_as_a_process_and_what_a_killed_one_held_is_done_by_another(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'agent_pipelines.db'}")
    migrate(database)
    hub = Hub(database, SystemClock())
    agent = Agent("worker", [Node("main", NodeRuntime(NodeConfig.model_validate({"lease": "3s"})))])
    task = spec(prompt="hello", placement={"labels": {"zone": "b"}, "wait": "60s"}, retry={"idempotent": True, "delay": 0})
    begun = tmp_path / "begun"
    with serving(hub) as port:
        hanging = _start(
            tmp_path, port, "first", f"argv: [sh, -c, 'echo $$ > {begun}.new; mv {begun}.new {begun}; exec sleep 600']\n"
        )
        other: subprocess.Popen[str] | None = None
        try:

            async def scenario() -> ExecutionResult:
                nonlocal other
                running = asyncio.create_task(hub.runner.run(invocation(), task, agent, run=RunRef(run_id=new_id())))
                await a_until(lambda: begun.exists() or running.done())
                other = _start(tmp_path, port, "second", "argv: [tr, a-z, A-Z]\n")
                await a_until(lambda: "second" in _live(hub))
                hanging.kill()
                return await running

            result = asyncio.run(scenario())
            assert (result.status, result.text, result.node, result.attempts) == (Status.SUCCEEDED, "HELLO", "second", 2)
            assert other is not None
            other.send_signal(signal.SIGTERM)
            _, said = other.communicate()
            assert other.returncode == 0, said
            assert TOKEN not in said
        finally:
            if begun.exists():  # what the killed node was at goes on without it
                os.kill(int(begun.read_text()), signal.SIGKILL)
            for process in (hanging, other):
                if process is not None:
                    process.kill()
                    process.wait()
    assert "second" not in _live(hub)  # it has said that it ends
    database.close()
