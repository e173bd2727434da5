"""A mail server that keeps what it gets: `python -m examples.agents.mail_server --port 0 --ready-file FILE`.

Each mail becomes a file `<EXAMPLES_HOME>/mail/<time>-<number>.eml`. Nothing is delivered anywhere, and a repeated
Message-ID is kept twice: whoever counts the files sees it.
"""

import argparse
import asyncio
import itertools
import os
import signal
import time
from pathlib import Path

from aiosmtpd.smtp import SMTP, Envelope, Session

from examples.agents.home import examples_home
from examples.agents.ready import announce, listen


class Keeper:
    """Writes every mail to a directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._numbers = itertools.count(1)

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        self._directory.mkdir(parents=True, exist_ok=True)
        name = f"{time.time_ns()}-{next(self._numbers)}"
        draft = self._directory / f".{name}"
        draft.write_bytes(envelope.original_content or b"")
        os.replace(draft, self._directory / f"{name}.eml")
        return "250 Message accepted"


async def serve(directory: Path, host: str, port: int, ready_file: Path | None) -> None:
    """Take mail until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    keeper = Keeper(directory)
    listener = listen(host, port)
    server = await loop.create_server(lambda: SMTP(keeper, hostname="localhost", ident="examples", loop=loop), sock=listener)
    announce(listener, ready_file)
    await stop.wait()
    server.close()


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(prog="python -m examples.agents.mail_server", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--ready-file", type=Path, help="written as JSON once mail can be sent")
    options = parser.parse_args()
    asyncio.run(serve(examples_home() / "mail", options.host, options.port, options.ready_file))


if __name__ == "__main__":
    main()
