"""Child processes that end together with everything they started."""

import asyncio
import os
import signal
import tempfile
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Self

import psutil

_TAIL = 16_384
_POLL = 0.01


class ProcessGroup:
    """A child process in a session of its own, and its output."""

    def __init__(self, process: Process, output: "_Pipe", errors: "_Pipe | None", grace: float) -> None:
        self._process = process
        self._output = output
        self._errors = errors
        self._grace = grace
        self._tail = b""

    @classmethod
    @asynccontextmanager
    async def running(
        cls,
        argv: Sequence[str],
        *,
        stdin: bytes | None,
        grace: float,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        keep_stderr: bool = True,
    ) -> AsyncIterator[Self]:
        """Start a program for the length of the block; when the block is left in any way, the whole group has ended.

        `stdin` of None is closed. `grace` is the time in seconds between SIGTERM and SIGKILL. Without `keep_stderr` the
        child writes to our stderr. Raises what starting a program raises: OSError, and ValueError for a NUL byte.
        """
        pipes = [await _Pipe.open()]
        background: list[asyncio.Task[None]] = []
        group: Self | None = None
        try:
            if keep_stderr:
                pipes.append(await _Pipe.open())
            errors = pipes[1] if keep_stderr else None
            # A file, because a pipe would have to be fed while the child may not read it.
            with tempfile.TemporaryFile() as given:
                given.write(stdin or b"")
                given.seek(0)
                start = asyncio.create_task(
                    asyncio.create_subprocess_exec(
                        *argv,
                        stdin=DEVNULL if stdin is None else given,
                        stdout=pipes[0].write_fd,
                        stderr=errors.write_fd if errors else None,
                        env=env,
                        cwd=cwd,
                        start_new_session=True,
                    )
                )
                try:
                    process = await asyncio.shield(start)
                except asyncio.CancelledError:
                    # Left to itself a cancelled start kills the child alone, and not what it has started meanwhile.
                    await asyncio.wait({start})
                    if start.exception() is None:
                        group = cls(start.result(), pipes[0], errors, grace)
                    raise
            group = cls(process, pipes[0], errors, grace)
            for pipe in pipes:
                pipe.close_writer()
            background = [asyncio.create_task(group._tidy()), asyncio.create_task(group._keep_errors())]
            yield group
        finally:
            for task in background:
                task.cancel()
            try:
                if group is not None:
                    await group.end()
            finally:
                for pipe in pipes:
                    pipe.close()

    @property
    def pid(self) -> int:
        """Process id of the child, which is the id of its group and session."""
        return self._process.pid

    @property
    def stderr(self) -> str:
        """The last part of what the child wrote to stderr, if that is kept."""
        return self._tail.decode(errors="replace")

    async def output(self) -> AsyncIterator[bytes]:
        """Pieces of what the child writes to stdout, to the end."""
        while piece := await self._output.reader.read(65_536):
            yield piece

    async def wait(self) -> int:
        """The exit code of the child, negative for a signal, once `stderr` is complete."""
        code = await self._process.wait()
        if self._errors is not None:
            await self._errors.ended.wait()
        return code

    async def end(self) -> None:
        """End the group: SIGTERM, and SIGKILL to what is left after the grace."""
        if self._signal(signal.SIGTERM):
            try:
                async with asyncio.timeout(self._grace):
                    await self._process.wait()
                    # Grandchildren are not ours to wait for, so their end can only be looked up.
                    while self._signal(0) and self._is_alive():  # noqa: ASYNC110
                        await asyncio.sleep(_POLL)
            except TimeoutError:
                self._signal(signal.SIGKILL)
            except asyncio.CancelledError:  # a second one, when there is no time for grace
                self._signal(signal.SIGKILL)
                await self._process.wait()
                raise
        await self._process.wait()

    def _signal(self, number: int) -> bool:
        """Send a signal to the group; False if the group has no member."""
        try:
            os.killpg(self._process.pid, number)
        except (ProcessLookupError, PermissionError):  # macOS says the latter of a group of zombies
            return False
        return True

    def _is_alive(self) -> bool:
        """Whether a member of the group is more than a zombie: who should reap orphans may be slow, or missing in a container."""
        for pid in psutil.pids():
            with suppress(ProcessLookupError, psutil.NoSuchProcess):
                if os.getpgid(pid) == self._process.pid and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                    return True
        return False

    async def _tidy(self) -> None:
        await self._process.wait()
        # What the child left behind may still finish its output; and who left the group can hold a pipe open for ever.
        await asyncio.sleep(self._grace)
        await self.end()
        self._output.close()
        if self._errors is not None:
            self._errors.close()

    async def _keep_errors(self) -> None:
        if self._errors is None:
            return
        while piece := await self._errors.reader.read(_TAIL):
            self._tail = (self._tail + piece)[-_TAIL:]
        self._errors.ended.set()


def manner_of_end(code: int) -> str:
    """How a process ended, in words."""
    return f"ended with exit code {code}" if code >= 0 else f"was ended by signal {-code} ({signal.strsignal(-code)})"


class _Pipe:
    """The reading end of a pipe whose writing end a child is given.

    Not asyncio's own pipes: with those `Process.wait` lasts until they close, and a grandchild can hold them open.
    """

    def __init__(self, reader: asyncio.StreamReader, transport: asyncio.ReadTransport, write_fd: int) -> None:
        self.reader = reader
        self.write_fd = write_fd
        self.ended = asyncio.Event()
        self._transport = transport
        self._has_writer = True

    @classmethod
    async def open(cls) -> "_Pipe":
        read_fd, write_fd = os.pipe()
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read_fd, "rb", buffering=0)
        )
        return cls(reader, transport, write_fd)

    def close_writer(self) -> None:
        if self._has_writer:
            self._has_writer = False
            os.close(self.write_fd)

    def close(self) -> None:
        self.close_writer()
        self._transport.close()
        self.ended.set()
