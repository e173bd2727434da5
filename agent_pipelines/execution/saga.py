"""Steps that are undone, in reverse, when one of them fails for good."""

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, overload

from pydantic import JsonValue

from agent_pipelines.core.effect import EffectStatus
from agent_pipelines.core.errors import ErrorClass, RuntimeFailure, StorageError
from agent_pipelines.execution import bridge
from agent_pipelines.execution.effects import EffectAbandoned, Effects, EffectUnknown

_DECIDED = "!undo"  # the key, in the saga, of the decision to undo it


class SagaFailed(RuntimeFailure):
    """A step failed, and what had been done before it is undone."""

    def __init__(self, saga: str, undone: list[str], reason: str) -> None:
        words = f"undone: {', '.join(undone)}" if undone else "there was nothing to undo"
        super().__init__(ErrorClass.COMPENSATED, f"saga {saga} failed: {reason} ({words})")


class _IsUndone(Exception):
    """The saga was being undone when its process was lost: nothing further is done."""


@dataclass(frozen=True)
class _Undo:
    key: str
    call: Callable[..., Any]
    receipt: JsonValue
    is_async: bool
    options: dict[str, Any]


@dataclass
class Saga:
    """Steps with their compensators. Use it as a context manager, with `async with` around asynchronous steps.

    Steps and compensators are effects: each happens once, across every crash. When the block raises, that is recorded before
    the first compensator runs; from then on no further step is done, the compensators of the finished ones run in reverse order,
    and SagaFailed is raised. Nothing is undone while it is unknown whether a step has happened, or when the work is cancelled:
    it goes on at the next try.
    """

    effects: Effects
    name: str
    _undo: list[_Undo] = field(default_factory=list[_Undo])
    _at: str | None = None
    _reason: str | None = None

    @overload
    def step(
        self,
        key: str,
        do: Callable[..., Awaitable[Any]],
        *,
        undo: Callable[..., Any] | None = None,
        undo_idempotent: bool = False,
        undo_probe: Callable[..., Any] | None = None,
        tries: int = 1,
        wait: float = 1.0,
        **once: Any,
    ) -> Awaitable[Any]: ...

    @overload
    def step(
        self,
        key: str,
        do: Callable[..., Any],
        *,
        undo: Callable[..., Any] | None = None,
        undo_idempotent: bool = False,
        undo_probe: Callable[..., Any] | None = None,
        tries: int = 1,
        wait: float = 1.0,
        **once: Any,
    ) -> Any: ...

    def step(
        self,
        key: str,
        do: Callable[..., Any],
        *,
        undo: Callable[..., Any] | None = None,
        undo_idempotent: bool = False,
        undo_probe: Callable[..., Any] | None = None,
        tries: int = 1,
        wait: float = 1.0,
        **once: Any,
    ) -> Any:
        """Do a step once, and return its receipt; `once` are further arguments of `Effects.once`, for the step.

        `undo` is called with the receipt. What has certainly not happened is tried again, `tries` times in all, after `wait`
        seconds that double. Awaitable if `do` is a coroutine function.
        """
        options = {"idempotent": undo_idempotent, "probe": undo_probe}
        working = self._step(key, do, undo, options, tries, wait, once)
        return working if inspect.iscoroutinefunction(do) else bridge.run(working)

    async def _step(
        self,
        key: str,
        do: Callable[..., Any],
        undo: Callable[..., Any] | None,
        options: dict[str, Any],
        tries: int,
        wait: float,
        once: dict[str, Any],
    ) -> JsonValue:
        name = f"{self.name}/{key}"
        if self._reason is not None:
            found = await self.effects.find(name)
            if found is None or found.status is not EffectStatus.DONE:
                raise _IsUndone
            receipt = found.receipt
        else:
            self._at = name
            receipt = await self._tried(name, do, tries, wait, once)
            self._at = None
        if undo is not None:
            self._undo.append(_Undo(name, undo, receipt, inspect.iscoroutinefunction(do), options))
        return receipt

    async def _tried(self, name: str, do: Callable[..., Any], tries: int, wait: float, once: dict[str, Any]) -> JsonValue:
        for number in range(1, tries + 1):
            try:
                return await self.effects.perform(name, do, **once)
            except EffectUnknown:
                raise
            except Exception:
                found = await self.effects.find(name)
                if number == tries or found is None or found.status is not EffectStatus.FAILED:
                    raise
                await self.effects.clock.sleep(wait * 2 ** (number - 1))
        raise ValueError(f"tries is {tries}; a step is tried at least once")

    async def _begin(self) -> Self:
        decided = await self.effects.find(f"{self.name}/{_DECIDED}")
        self._reason = None if decided is None else str(decided.receipt)
        return self

    async def _end(self, error: BaseException | None) -> None:
        if error is None and self._reason is not None:
            error = _IsUndone()  # it was decided before, and the block did not come to what had failed
        if error is None or not isinstance(error, Exception) or isinstance(error, EffectUnknown | StorageError):
            return
        if (
            isinstance(error, RuntimeFailure)
            and error.error_class is ErrorClass.CANCELLED
            and not isinstance(error, EffectAbandoned)
        ):
            return
        if self._reason is None:
            found = None if self._at is None else await self.effects.find(self._at)
            if found is not None and found.status in (EffectStatus.UNKNOWN, EffectStatus.INTENDED):
                return
            words = f"{type(error).__name__}: {error}"
            self._reason = str(await self.effects.perform(f"{self.name}/{_DECIDED}", lambda: words, idempotent=True))
        for step in reversed(self._undo):
            await self.effects.perform(f"{step.key}/undo", _undoing(step), **step.options)
        raise SagaFailed(self.name, [step.key for step in reversed(self._undo)], self._reason) from error

    def __enter__(self) -> Self:
        return bridge.run(self._begin())

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        bridge.run(self._end(error))

    async def __aenter__(self) -> Self:
        return await self._begin()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._end(error)


def _undoing(step: _Undo) -> Callable[[], Any]:
    if inspect.iscoroutinefunction(step.call):

        async def undo_later() -> Any:
            return await step.call(step.receipt)

        return undo_later

    def undo() -> Any:
        return step.call(step.receipt)

    return undo
