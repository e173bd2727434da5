"""Serving the web server until it is asked to stop."""

import ipaddress
import signal
import socket
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from agent_pipelines.core.errors import AgentPipelinesError

_ENDING = 5  # seconds that requests have when the server is to stop: nodes wait for work for longer


class AddressError(AgentPipelinesError):
    """The address cannot be listened on."""


def listen(host: str, port: int) -> socket.socket:
    """Take an address; port 0 is any that is free. Raises AddressError if it cannot be had."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        words = "stop what uses it, or choose another with --port"
        raise AddressError(f"{host}:{port} cannot be listened on ({error.strerror}): {words}") from error


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def serve(app: ASGIApp, listening: socket.socket) -> None:
    """Answer requests until SIGINT or SIGTERM."""
    config = uvicorn.Config(app, log_level="warning", server_header=False, timeout_graceful_shutdown=_ENDING)
    _Server(config).run([listening])


class _Server(uvicorn.Server):
    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # What uvicorn notes here it raises once more after the end, within its event loop: a clean stop then shows a traceback.
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True
