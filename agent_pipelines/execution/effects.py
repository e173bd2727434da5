"""Acting on the world once, however often the code that does it is run."""

import asyncio
import hashlib
import inspect
import threading
from collections.abc import Awaitable, Callable, Generator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, overload

from pydantic import JsonValue
from pydantic_core import PydanticSerializationError, to_jsonable_python

from agent_pipelines.core.acting import Acting, acting_for
from agent_pipelines.core.clock import Clock
from agent_pipelines.core.effect import EffectStatus
from agent_pipelines.core.errors import AgentPipelinesError, ErrorClass, IllegalTransition, RuntimeFailure, StorageError
from agent_pipelines.execution import bridge
from agent_pipelines.governance.human_tasks import HumanTasks, Subject
from agent_pipelines.ledger.effects import Effect
from agent_pipelines.ledger.effects import Effects as EffectLedger
from agent_pipelines.store.database import Connection, Database

SUBJECT: Subject = "effect"
"""What human tasks about effects are about."""
ANSWERS = ("done", "not_done", "abandon")
"""What a person may find out about an effect whose outcome is unknown."""

Scope = Literal["invocation", "workspace"]
"""How far a key reaches: every try of one work, or every work of the workspace."""

_CERTAINLY_NOT = frozenset(
    {
        ErrorClass.AUTHENTICATION,
        ErrorClass.PERMISSION,
        ErrorClass.QUOTA,
        ErrorClass.RATE_LIMIT,
        ErrorClass.INVALID_REQUEST,
        ErrorClass.NOT_FOUND,
        ErrorClass.CONNECTION,
    }
)
_LOOK = 0.25  # seconds between two looks at an effect that another run is at

Result = TypeVar("Result")


_ASKS = "human_task:"


def human_task_of(failure: RuntimeFailure) -> str | None:
    """The human task that asks about what has failed; an EffectUnknown of a child process is told by its code."""
    code = failure.code or ""
    return code.removeprefix(_ASKS) if code.startswith(_ASKS) else None


class EffectUnknown(RuntimeFailure):
    """Nobody knows whether an effect has happened, and only a person can find out: names the human task that asks."""

    def __init__(self, effect: Effect, human_task_id: str) -> None:
        super().__init__(
            ErrorClass.UNKNOWN_OUTCOME,
            f"nobody knows whether {effect.name} has happened ({effect.error}); human task {human_task_id} asks",
            code=f"{_ASKS}{human_task_id}",
        )
        self.effect_id = effect.id
        self.human_task_id = human_task_id


class EffectAbandoned(RuntimeFailure):
    """A person decided that an effect is not to happen."""

    def __init__(self, effect: Effect) -> None:
        super().__init__(ErrorClass.CANCELLED, f"{effect.name} was abandoned by {effect.settled_by}")


@dataclass(frozen=True)
class _Asked:
    """What a call of `once` asks for."""

    key: str
    name: str
    do: Callable[..., Any]
    probe: Callable[..., Any] | None
    idempotent: bool
    not_done: tuple[type[BaseException], ...]
    request: JsonValue
    secret: str
    """The key as the receiver is told it: nobody can guess another one from it."""

    async def call(self, function: Callable[..., Any]) -> Any:
        """Call `do` or `probe`, with the key if it takes one."""
        arguments = (self.secret,) if _takes_one(function) else ()
        if inspect.iscoroutinefunction(function):
            return await function(*arguments)
        if inspect.iscoroutinefunction(self.do):
            return await asyncio.to_thread(function, *arguments)
        return function(*arguments)  # in the caller's own thread, where the caller's connections may be used


@dataclass
class Effects:
    """The effects of one execution, or of one step of a Dagster run."""

    database: Database
    clock: Clock
    ledger: EffectLedger
    human_tasks: HumanTasks
    whom: Acting
    run_is_over: Callable[[str], bool] | None = None
    """Asks Dagster whether a run is over, for effects that belong to no execution; without it their runs count as over."""
    _in_flight: dict[str, "Future[JsonValue]"] = field(default_factory=dict[str, "Future[JsonValue]"])
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @overload
    def once(
        self,
        key: str,
        do: Callable[..., Awaitable[Any]],
        *,
        probe: Callable[..., Any] | None = None,
        idempotent: bool = False,
        name: str | None = None,
        scope: Scope = "invocation",
        not_done: tuple[type[BaseException], ...] = (),
        request: JsonValue = None,
    ) -> Awaitable[Any]: ...

    @overload
    def once(
        self,
        key: str,
        do: Callable[..., Any],
        *,
        probe: Callable[..., Any] | None = None,
        idempotent: bool = False,
        name: str | None = None,
        scope: Scope = "invocation",
        not_done: tuple[type[BaseException], ...] = (),
        request: JsonValue = None,
    ) -> Any: ...

    def once(
        self,
        key: str,
        do: Callable[..., Any],
        *,
        probe: Callable[..., Any] | None = None,
        idempotent: bool = False,
        name: str | None = None,
        scope: Scope = "invocation",
        not_done: tuple[type[BaseException], ...] = (),
        request: JsonValue = None,
    ) -> Any:
        """Make an effect happen once, and return its receipt: what `do` returned, in its JSON form.

        `do` and `probe` may take one argument, a key for the receiver that is the same at every try. An intent is recorded before
        `do` is called, and the receipt after it; where there is a receipt, `do` is not called. An effect that was begun and has
        none may have happened. Then, in this order: it is repeated if it is `idempotent`, that is if the receiver acts once on a
        repeated key or if repeating does no harm; `probe` is asked, which returns the receipt if it has happened and None if not;
        or a person is asked, and EffectUnknown is raised. `not_done` are exceptions of `do` that say that it has certainly not
        happened. Awaitable if `do` is a coroutine function.

        Raises what `do` raises; EffectAbandoned if a person decided so; RuntimeFailure (cancelled) if the work is another run's.
        """
        working = self.perform(
            key,
            do,
            probe=probe,
            idempotent=idempotent,
            name=name,
            scope=scope,
            not_done=not_done,
            request=request,
        )
        return working if inspect.iscoroutinefunction(do) else bridge.run(working)

    async def perform(
        self,
        key: str,
        do: Callable[..., Any],
        *,
        probe: Callable[..., Any] | None = None,
        idempotent: bool = False,
        name: str | None = None,
        scope: Scope = "invocation",
        not_done: tuple[type[BaseException], ...] = (),
        request: JsonValue = None,
    ) -> JsonValue:
        """The same as `once`, to be awaited whatever `do` is."""
        whole = self._whole(key, scope)
        secret = hashlib.sha256(f"{self.whom.workspace}\0{whole}".encode()).hexdigest()
        return await self._once(_Asked(whole, name or key, do, probe, idempotent, not_done, request, secret))

    async def find(self, key: str, scope: Scope = "invocation") -> Effect | None:
        """What is known of an effect, by its key."""
        whole = self._whole(key, scope)
        return await self.database.read(lambda connection: self.ledger.of_key(connection, self.whom.workspace, whole))

    def _whole(self, key: str, scope: Scope) -> str:
        return f"{self.whom.scope}/{key}" if scope == "invocation" else f"workspace/{key}"

    def step(self, key: str, do: Callable[..., Any]) -> Any:
        """Do a part of the work that changes nothing outside, as a call of a model, and keep its result for every later try.

        Awaitable if `do` is a coroutine function.
        """
        return self.once(f"step/{key}", do, name=key, idempotent=True)

    async def _once(self, asked: _Asked) -> JsonValue:
        mine: Future[JsonValue] = Future()
        with self._lock:
            running = self._in_flight.setdefault(asked.key, mine)
        if running is not mine:  # two callers of one key at once, perhaps in two threads: one does it
            return await asyncio.shield(asyncio.wrap_future(running))
        try:
            receipt = await self._settled(asked)
        except BaseException as error:
            mine.set_exception(error if isinstance(error, Exception) else RuntimeFailure(ErrorClass.CANCELLED, "was cancelled"))
            raise
        else:
            mine.set_result(receipt)
            return receipt
        finally:
            with self._lock:
                del self._in_flight[asked.key]

    async def _settled(self, asked: _Asked) -> JsonValue:
        effect, is_ours = await self._intended(asked)
        while not is_ours:
            match effect.status:
                case EffectStatus.DONE:
                    return effect.receipt
                case EffectStatus.ABANDONED:
                    raise EffectAbandoned(effect)
                case EffectStatus.FAILED:
                    effect, is_ours = await self._intended(asked)
                case EffectStatus.UNKNOWN:
                    found = await self._find_out(asked, effect)
                    is_ours = found is not None and found.status is EffectStatus.INTENDED
                    effect = found or await self._read(effect)
                case EffectStatus.INTENDED:
                    effect = await self._left_or_awaited(effect)
        return await self._do(asked, effect)

    async def _intended(self, asked: _Asked) -> tuple[Effect, bool]:
        try:
            return await self.database.write(lambda connection: self._intend(connection, asked))
        except IllegalTransition as error:
            raise RuntimeFailure(ErrorClass.CANCELLED, str(error)) from None

    def _intend(self, connection: Connection, asked: _Asked) -> tuple[Effect, bool]:
        return self.ledger.intend(
            connection,
            self.whom.task_key,
            asked.key,
            name=asked.name,
            run_id=self.whom.run_id,
            execution_id=self.whom.execution_id,
            request=asked.request,
        )

    async def _do(self, asked: _Asked, effect: Effect) -> JsonValue:
        try:
            receipt = _json_form(await asked.call(asked.do), asked.name)
        except asked.not_done as error:
            await self._note(effect, EffectStatus.FAILED, error)
            raise
        except RuntimeFailure as error:
            certain = error.error_class in _CERTAINLY_NOT
            known = await self._note(effect, EffectStatus.FAILED if certain else EffectStatus.UNKNOWN, error)
            if certain or known is None:
                raise
            return await self._after_loss(asked, known, error)
        except Exception as error:
            known = await self._note(effect, EffectStatus.UNKNOWN, error)
            if known is None:
                raise
            return await self._after_loss(asked, known, error)
        # A cancelled try leaves its intent: who goes on finds that it may have happened.
        ended = await self.database.write(lambda connection: self._done(connection, effect, receipt))
        return ended.receipt  # as every later try will get it

    def _done(self, connection: Connection, effect: Effect, receipt: JsonValue) -> Effect:
        return self.ledger.done(connection, effect, receipt, by="answer")

    async def _after_loss(self, asked: _Asked, effect: Effect, error: Exception) -> JsonValue:
        """The answer of `do` is lost: find out at once what can be found out. What cannot is for the next try."""
        if asked.idempotent:
            raise error  # repeating does no harm, and is for the retry policy to time
        found = await self._find_out(asked, effect)
        if found is not None and found.status is EffectStatus.DONE:
            return found.receipt
        raise error

    async def _find_out(self, asked: _Asked, effect: Effect) -> Effect | None:
        """Bring an unknown effect to a state that is known; one that is begun again is this call's to make happen."""
        if asked.idempotent:
            return await self._change(lambda connection: self._again(connection, effect), effect)
        if asked.probe is None:
            human_task_id = await self.database.write(lambda connection: self._ask(connection, effect))
            raise EffectUnknown(effect, human_task_id)
        # Raises what the probe raises: the effect stays unknown, and the next try asks again.
        receipt = _json_form(await asked.call(asked.probe), f"the probe of {asked.name}")
        if receipt is None or receipt is False:
            return await self._change(lambda connection: self.ledger.failed(connection, effect, "the probe says so"), effect)
        return await self._change(lambda connection: self.ledger.done(connection, effect, receipt, by="probe"), effect)

    def _again(self, connection: Connection, effect: Effect) -> Effect:
        return self.ledger.again(connection, effect, run_id=self.whom.run_id, execution_id=self.whom.execution_id)

    def _ask(self, connection: Connection, effect: Effect) -> str:
        return self.human_tasks.open(
            connection,
            effect.task_key,
            subject=SUBJECT,
            subject_id=effect.id,
            question=f"Has `{effect.name}` happened? {effect.error or ''}".strip(),
            options=ANSWERS,
            context={"key": effect.key, "request": effect.request, "tries": effect.tries},
            execution_id=self.whom.execution_id,
        ).id

    async def _left_or_awaited(self, effect: Effect) -> Effect:
        """An effect that somebody has begun: unknown if he is gone, otherwise looked at again a little later."""
        is_at_work = await self.database.read(lambda connection: self.ledger.is_at_work(connection, effect))
        if is_at_work and (effect.execution_id, effect.run_id) == (self.whom.execution_id, self.whom.run_id):
            is_at_work = False  # an earlier try of our own, which this process would know if it still ran
        if is_at_work is None:
            over = self.run_is_over
            is_at_work = (
                over is not None and effect.run_id != self.whom.run_id and not await asyncio.to_thread(over, effect.run_id)
            )
        if is_at_work:
            await self.clock.sleep(_LOOK)
            return await self._read(effect)
        words = f"run {effect.run_id} ended between the intent and the receipt"
        changed = await self._change(lambda connection: self.ledger.unknown(connection, effect, words), effect)
        return changed or effect

    async def _change(self, change: Callable[[Connection], Effect], effect: Effect) -> Effect | None:
        """Change an effect, or read how somebody else has changed it meanwhile."""
        try:
            return await self.database.write(change)
        except IllegalTransition:
            found = await self._read(effect)
            return found if found.status is not EffectStatus.INTENDED else None

    async def _read(self, effect: Effect) -> Effect:
        found = await self.database.read(lambda connection: self.ledger.get(connection, effect.id))
        if found is None:
            raise IllegalTransition(f"effect {effect.key} has vanished from the record")
        return found

    async def _note(self, effect: Effect, status: EffectStatus, error: BaseException) -> Effect | None:
        """Record how a try ended, if the record can be kept; otherwise its intent stays, which means the same as unknown."""
        words = f"{type(error).__name__}: {error}"
        change = self.ledger.failed if status is EffectStatus.FAILED else self.ledger.unknown
        with suppress(StorageError, IllegalTransition):
            return await self.database.write(lambda connection: change(connection, effect, words))
        return None


def _takes_one(function: Callable[..., Any]) -> bool:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # of some builtins
        return False
    # One with a default is the caller's own, as in `lambda ticket=ticket: ...`.
    return any(each.kind in kinds and each.default is inspect.Parameter.empty for each in parameters)


def _json_form(value: Any, name: str) -> JsonValue:
    try:
        return to_jsonable_python(value)
    except PydanticSerializationError:
        kind = type(value).__name__
        raise AgentPipelinesError(f"{name} returned a value of type {kind}; a receipt is text or has a JSON form") from None


_here: ContextVar[Effects | None] = ContextVar("agent_pipelines_effects", default=None)


def effects_here() -> Effects | None:
    """The effects of the execution that the caller works for in this process."""
    return _here.get()


@contextmanager
def acting_with(effects: Effects) -> Generator[None]:
    """Have what is called in the block act with these effects, child processes included."""
    token = _here.set(effects)
    try:
        with acting_for(effects.whom):
            yield
    finally:
        _here.reset(token)
