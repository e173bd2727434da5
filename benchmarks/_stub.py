"""An agent for benchmarks of batches: an OpenAI-compatible endpoint in a process of its own.

python benchmarks/_stub.py MILLISECONDS CAPACITY    (CAPACITY 0 takes any number at once); prints its port.
"""

import asyncio
import json
import sys

_ANSWER = json.dumps(
    {
        "model": "stub",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "done"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 1},
    }
).encode()
_RESPONSE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(_ANSWER), _ANSWER)


class Endpoint(asyncio.Protocol):
    """One connection: reads whole requests, answers each after a while."""

    def __init__(self, seconds: float, slots: asyncio.Semaphore | None) -> None:
        self._seconds = seconds
        self._slots = slots
        self._received = b""
        self._transport: asyncio.Transport | None = None
        self._answering: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            head = self._received[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0])
            if len(self._received) < end + 4 + length:
                return
            self._received = self._received[end + 4 + length :]
            if self._slots is None:
                asyncio.get_running_loop().call_later(self._seconds, self._answer)
            else:
                task = asyncio.ensure_future(self._in_turn(self._slots))
                self._answering.add(task)
                task.add_done_callback(self._answering.discard)

    async def _in_turn(self, slots: asyncio.Semaphore) -> None:
        async with slots:
            await asyncio.sleep(self._seconds)
        self._answer()

    def _answer(self) -> None:
        assert self._transport is not None
        if not self._transport.is_closing():
            self._transport.write(_RESPONSE)


async def main(milliseconds: str, capacity: str) -> None:
    slots = asyncio.Semaphore(int(capacity)) if int(capacity) else None
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Endpoint(float(milliseconds) / 1_000, slots), "127.0.0.1", 0, backlog=1_024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)  # until whoever started it closes that


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
