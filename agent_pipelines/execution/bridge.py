"""The one place where plain code waits for a coroutine."""

import asyncio
import signal
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


def run(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine to its end from plain code.

    SIGINT and SIGTERM cancel it, so that it can settle; then the signal takes its usual course. Inside a running
    event loop, as in a notebook, the coroutine gets a thread of its own.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(_with_signals(coroutine))
    outcome: list[Result] = []
    failure: list[BaseException] = []

    def work() -> None:
        try:
            outcome.append(asyncio.run(coroutine))
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=work, name="agent-pipelines-runner")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]


async def _with_signals(coroutine: Coroutine[Any, Any, Result]) -> Result:
    if threading.current_thread() is not threading.main_thread():
        return await coroutine
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(coroutine)
    received: list[signal.Signals] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def cancel(number: signal.Signals) -> None:
        received.append(number)
        task.cancel()

    for number in before:
        loop.add_signal_handler(number, cancel, number)
    try:
        return await task
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)
        if received:
            signal.raise_signal(received[0])
