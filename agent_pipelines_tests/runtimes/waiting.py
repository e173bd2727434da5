"""Waiting for what another process does."""

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

_LIMIT = 30  # seconds; only a test that fails gets there


def until(condition: Callable[[], object]) -> None:
    """Wait until a condition holds."""
    give_up = time.monotonic() + _LIMIT
    while not condition():
        assert time.monotonic() < give_up, "waited in vain"
        time.sleep(0.01)


async def a_until(condition: Callable[[], object]) -> None:
    """Wait until a condition holds, and let the event loop run."""
    give_up = time.monotonic() + _LIMIT
    while not condition():
        assert time.monotonic() < give_up, "waited in vain"
        await asyncio.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie that its adoptive parent has not reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def group_is_gone(pid: int) -> bool:
    """Whether a process group has no member left."""
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return True
    return False
