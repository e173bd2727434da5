"""A control plane that nodes speak to over HTTP, and a clock that can be moved on while it runs."""

import asyncio
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager

import uvicorn
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.routing import Mount

from agent_pipelines.core.declared import Declared
from agent_pipelines.core.ids import new_id
from agent_pipelines.engine.health import Health
from agent_pipelines.hub import Hub
from agent_pipelines.runtimes.node_client import NodeClient
from agent_pipelines.web.api import PREFIX, build_api
from agent_pipelines.web.server import listen
from agent_pipelines.web.token import ApiToken

TOKEN = "a-token-for-tests-only-0123456789abcdef"
DECLARED = Declared(agents=("worker",), node_agents=("worker",))


class MovedClock:
    """The clock of the machine, moved on."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def now(self) -> int:
        return time.time_ns() // 1_000 + round(self.ahead * 1_000_000)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


@contextmanager
def serving(hub: Hub, port: int = 0) -> Generator[int]:
    """Serve the interface of a hub in a thread; gives the port."""
    api = build_api(hub, ApiToken(TOKEN), lambda: DECLARED, lambda: Health(at=0, home="/home", problems=()))
    listening = listen("127.0.0.1", port)
    server = uvicorn.Server(
        uvicorn.Config(Starlette(routes=[Mount(PREFIX, app=api)]), log_level="error", timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


def client(port: int, node: str, worker: str | None = None) -> NodeClient:
    """A client for one worker of a node of agent `worker`."""
    url = f"http://127.0.0.1:{port}"
    return NodeClient.to(url, SecretStr(TOKEN), agent="worker", node=node, worker=worker or new_id())
