import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import psutil
import pytest

from agent_pipelines.runtimes.process import ProcessGroup, manner_of_end
from agent_pipelines_tests.runtimes.waiting import a_until, is_alive


def running(*argv: str, stdin: bytes | None = None, grace: float = 5, **settings: Any) -> Any:
    return ProcessGroup.running(argv, stdin=stdin, grace=grace, **settings)


def shell(script: str, **settings: Any) -> Any:
    return running("sh", "-c", script, **settings)


async def read(group: ProcessGroup) -> bytes:
    return b"".join([piece async for piece in group.output()])


def test_output_exit_code_and_stderr_are_given() -> None:
    async def main() -> None:
        async with shell("cat; echo problem >&2; exit 3", stdin=b"given") as group:
            assert await read(group) == b"given"
            assert await group.wait() == 3
            assert group.stderr == "problem\n"

    asyncio.run(main())


def test_stdin_can_be_closed() -> None:
    async def main() -> None:
        async with shell("cat; echo end") as group:
            assert await read(group) == b"end\n"

    asyncio.run(main())


def test_a_block_that_is_left_at_once_has_an_exit_code_too() -> None:
    async def main() -> None:
        async with running("sleep", "1000") as group:
            pass
        assert await group.wait() == -signal.SIGTERM

    asyncio.run(main())


@pytest.mark.parametrize("size", [0, 1, 5_000_000])
def test_input_and_output_of_any_size_pass(size: int) -> None:
    async def main() -> None:
        async with running("cat", stdin=b"x" * size) as group:
            assert len(await read(group)) == size

    asyncio.run(main())


def test_a_program_that_does_not_read_its_input_is_no_problem() -> None:
    async def main() -> None:
        async with running("true", stdin=b"x" * 5_000_000) as group:
            assert await read(group) == b""
            assert await group.wait() == 0

    asyncio.run(main())


def test_only_the_end_of_stderr_is_kept() -> None:
    async def main() -> None:
        async with shell("seq 1 100000 >&2") as group:
            await group.wait()
            assert len(group.stderr) == 16_384
            assert group.stderr.endswith("99999\n100000\n")

    asyncio.run(main())


def test_a_program_that_is_missing_raises_and_leaves_nothing_open() -> None:
    async def main() -> None:
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            with pytest.raises(FileNotFoundError):
                async with running("no-such-program"):
                    pass
        await asyncio.sleep(0)  # transports close in the next round of the loop
        assert len(os.listdir("/proc/self/fd")) == before

    asyncio.run(main())


def test_leaving_the_block_ends_the_child_and_its_children(tmp_path: Path) -> None:
    told = tmp_path / "pid"

    async def main() -> None:
        async with shell(f"sleep 1000 & echo $! > {told}.new; mv {told}.new {told}; wait") as group:
            await a_until(told.exists)
        await a_until(lambda: not is_alive(group.pid) and not is_alive(int(told.read_text())))

    asyncio.run(main())


def test_who_ignores_the_request_to_end_is_killed(tmp_path: Path) -> None:
    told = tmp_path / "pid"
    stubborn = f"trap '' TERM; echo $$ > {told}.new; mv {told}.new {told}; while :; do sleep 1000; done"

    async def main() -> None:
        # The grandchild ignores SIGTERM, the child does not.
        async with running("sh", "-c", 'sh -c "$0" & wait', stubborn, grace=0.1) as group:
            await a_until(told.exists)
        assert await group.wait() == -signal.SIGTERM
        await a_until(lambda: not is_alive(int(told.read_text())))

    asyncio.run(main())


def cancelled_in(main: Callable[[asyncio.Event], Coroutine[Any, Any, None]], times: int = 1) -> None:
    async def supervise() -> None:
        ready = asyncio.Event()
        task = asyncio.create_task(main(ready))
        await ready.wait()
        for _ in range(times):
            task.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(supervise())


@pytest.mark.parametrize("times", [1, 2])
def test_cancelling_ends_the_group_even_when_repeated(times: int) -> None:
    pids: list[int] = []

    async def main(ready: asyncio.Event) -> None:
        # With a second cancellation there is no grace to wait for, however long it is.
        async with shell("trap '' TERM; echo up; while :; do sleep 1000; done", grace=1 if times == 1 else 1_000) as group:
            pids.append(group.pid)
            async for _ in group.output():
                ready.set()

    async def gone() -> None:
        await a_until(lambda: not is_alive(pids[0]))

    cancelled_in(main, times)
    asyncio.run(gone())


@pytest.mark.parametrize("steps", range(12))
def test_cancelling_while_the_program_starts_leaves_nothing_behind(steps: int) -> None:
    duration = f"100{os.getpid()}.{steps}"  # by which the grandchild is found

    async def start() -> None:
        async with shell(f"sleep {duration} & wait"):
            await asyncio.Event().wait()

    async def main() -> None:
        task = asyncio.create_task(start())
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    running = [process.info for process in psutil.process_iter(["cmdline", "status"])]
    assert not [it for it in running if duration in (it["cmdline"] or ()) and it["status"] != psutil.STATUS_ZOMBIE]


def test_the_output_ends_although_a_process_left_behind_holds_it(tmp_path: Path) -> None:
    told = tmp_path / "pid"

    async def main() -> None:
        async with shell(f"sleep 1000 & echo $! > {told}; echo done", grace=0.1) as group:
            assert await read(group) == b"done\n"
            assert await group.wait() == 0
        await a_until(lambda: not is_alive(int(told.read_text())))

    asyncio.run(main())


def test_the_output_ends_although_a_process_that_left_the_group_holds_it(tmp_path: Path) -> None:
    told = tmp_path / "pid"
    leave = (
        "import os, sys; os.setsid(); new = sys.argv[1] + '.new'; open(new, 'w').write(str(os.getpid()));"
        "os.rename(new, sys.argv[1]); os.execvp('sleep', ['sleep', '1000'])"
    )
    script = '"$0" -c "$1" "$2" & until [ -e "$2" ]; do sleep 0.01; done; echo done'

    async def main() -> None:
        async with running("sh", "-c", script, sys.executable, leave, str(told), grace=0.1) as group:
            assert await read(group) == b"done\n"
            assert await group.wait() == 0
        os.kill(int(told.read_text()), signal.SIGKILL)

    asyncio.run(main())


def test_a_process_left_behind_may_finish_its_output() -> None:
    async def main() -> None:
        async with shell("(sleep 0.05; echo late) & echo early", grace=60) as group:
            assert await read(group) == b"early\nlate\n"

    asyncio.run(main())


def test_the_manner_of_an_end_is_put_in_words() -> None:
    assert manner_of_end(3) == "ended with exit code 3"
    assert manner_of_end(-9) == "was ended by signal 9 (Killed)"
