"""How a server of the examples says that it can be reached."""

import json
import os
import socket
from pathlib import Path


def listen(host: str, port: int) -> socket.socket:
    """A socket that connections can queue on from now; port 0 takes a free one."""
    listener = socket.create_server((host, port), backlog=256)
    listener.setblocking(False)
    return listener


def announce(listener: socket.socket, file: Path | None) -> None:
    """Write host, port and process id as JSON, whole or not at all; to standard output without a file."""
    host, port = listener.getsockname()[:2]
    text = json.dumps({"host": host, "port": port, "pid": os.getpid()})
    if file is None:
        print(text, flush=True)
        return
    draft = file.with_name(f"{file.name}.{os.getpid()}")
    draft.write_text(text + "\n")
    draft.replace(file)
