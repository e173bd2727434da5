"""Taking ticks for a burst, and getting each of them ready to be executed."""

from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from agent_pipelines.core.clock import Microseconds
from agent_pipelines.core.errors import AgentPipelinesError
from agent_pipelines.core.execution import Verdict
from agent_pipelines.core.invocation import Invocation
from agent_pipelines.core.task import TaskKey, TaskSpec
from agent_pipelines.engine.inbox import Inbox, InboxEvent
from agent_pipelines.engine.tick import Tick
from agent_pipelines.engine.ticks import Ticks
from agent_pipelines.execution.asked import event_of, invocation_of, payload
from agent_pipelines.execution.checks import Check, Gate, load_checks, load_gate
from agent_pipelines.ledger.ledger import Ledger
from agent_pipelines.ledger.recordable import recordable_text
from agent_pipelines.runtimes.fleet import Agent
from agent_pipelines.store.database import Connection, Database

_SPECS = 2_048  # specifications that are kept at hand


@dataclass(frozen=True)
class Declarations:
    """What a code location declares, as far as a burst needs it.

    `references` are the functions that checks and gates of declared tasks name: a registered task may use no others.
    """

    tasks: Mapping[TaskKey, TaskSpec] = field(default_factory=dict[TaskKey, TaskSpec])
    agents: Mapping[str, Callable[[], Agent]] = field(default_factory=dict[str, Callable[[], Agent]])
    references: Collection[str] = frozenset()


@dataclass(frozen=True)
class Prepared:
    """A tick that was taken, with all that its execution needs."""

    tick: Tick
    spec: TaskSpec
    agent: Agent
    others: Sequence[Agent]
    """The agents of its fallbacks."""
    invocation: Invocation
    checks: Sequence[Check]
    gate: Gate | None
    key: str
    """The idempotency key of the invocation."""


@dataclass(frozen=True)
class Refused:
    """A tick that was taken and cannot be executed; its verdict is `launch_failed`."""

    tick: Tick
    reason: str


class _CannotBegin(AgentPipelinesError):
    pass


@dataclass(frozen=True)
class _Known:
    spec: TaskSpec
    spec_hash: str
    checks: Sequence[Check]
    gate: Gate | None


@dataclass(frozen=True)
class _Taken:
    ticks: Sequence[Tick] = ()
    specs: Mapping[str, TaskSpec] = field(default_factory=dict[str, TaskSpec])
    events: Mapping[str, InboxEvent] = field(default_factory=dict[str, InboxEvent])


class Intake:
    """Takes the ticks of one burst. Agents are made when they are first needed, shared by executions, and closed at the end.

    A tick with the hash of a specification belongs to a registered task, any other to a declared one.
    """

    def __init__(
        self,
        database: Database,
        ticks: Ticks,
        inbox: Inbox,
        ledger: Ledger,
        *,
        run_id: str,
        workspace: str,
        declared: Declarations,
    ) -> None:
        self._database = database
        self._ticks = ticks
        self._inbox = inbox
        self._ledger = ledger
        self._run_id = run_id
        self._workspace = workspace
        self._declared = declared
        self._agents: dict[str, Agent] = {}
        self._registered: OrderedDict[str, _Known] = OrderedDict()
        self._of_declared: dict[TaskKey, _Known] = {}

    async def next_begin(self, *, priority_from: int | None = None) -> Microseconds | None:
        """When the first tick is to begin that waits for a burst; with `priority_from` only those of this priority or higher."""
        workspace = self._workspace
        return await self._database.read(
            lambda c: self._ticks.next_begin(c, lane="burst", workspace=workspace, priority_from=priority_from)
        )

    async def take(
        self, until: Microseconds, limit: int, *, priority_from: int | None = None
    ) -> tuple[Sequence[Prepared], Sequence[Refused]]:
        """Take ticks that are to begin by an instant, most urgent first; those that cannot be executed have their verdict."""
        taken = await self._database.write(lambda connection: self._take(connection, until, limit, priority_from))
        prepared: list[Prepared] = []
        refused: list[Refused] = []
        for tick in taken.ticks:
            try:
                prepared.append(self._prepare(tick, taken))
            except AgentPipelinesError as error:
                refused.append(Refused(tick, recordable_text(str(error))))
            except Exception as error:  # one that nobody thought of must not end the burst
                refused.append(Refused(tick, recordable_text(f"{type(error).__name__}: {error}")))
        # Not before: what was at hand when these ticks were taken was not read for them.
        while len(self._registered) > _SPECS:
            self._registered.popitem(last=False)
        if refused:
            await self._database.write(lambda connection: self._refuse(connection, refused))
        return prepared, refused

    async def close(self) -> None:
        """Close the agents."""
        for agent in self._agents.values():
            await agent.close()

    def _take(self, connection: Connection, until: Microseconds, limit: int, priority_from: int | None) -> _Taken:
        ticks = self._ticks.take(
            connection,
            lane="burst",
            run_id=self._run_id,
            workspace=self._workspace,
            until=until,
            limit=limit,
            priority_from=priority_from,
        )
        hashes = {tick.spec_hash for tick in ticks if tick.spec_hash is not None and tick.spec_hash not in self._registered}
        events = {event_id for tick in ticks if (event_id := event_of(tick)) is not None}
        return _Taken(
            ticks,
            self._ledger.specs.by_hashes(connection, hashes) if hashes else {},
            self._inbox.by_ids(connection, sorted(events)) if events else {},
        )

    def _refuse(self, connection: Connection, refused: Sequence[Refused]) -> None:
        for each in refused:
            tick = each.tick
            self._ticks.decide(
                connection, tick.task_key, tick.trigger, tick.occurrence, Verdict.LAUNCH_FAILED, reason=each.reason
            )

    def _prepare(self, tick: Tick, taken: _Taken) -> Prepared:
        known = self._known(tick, taken)
        event_id = event_of(tick)
        event = payload(event_id, taken.events.get(event_id or ""))
        invocation = invocation_of(tick, known.spec, known.spec_hash, event)
        agent, *others = [self._agent(name) for name in known.spec.agents]
        return Prepared(tick, known.spec, agent, others, invocation, known.checks, known.gate, invocation.idempotency_key)

    def _known(self, tick: Tick, taken: _Taken) -> _Known:
        if tick.spec_hash is None:
            return self._declared_task(tick)
        known = self._registered.get(tick.spec_hash)
        if known is None:
            spec = taken.specs.get(tick.spec_hash)
            if spec is None:
                raise _CannotBegin(f"there is no specification {tick.spec_hash}")
            self._refuse_undeclared(spec)
            known = self._registered[tick.spec_hash] = _Known(spec, tick.spec_hash, load_checks(spec), load_gate(spec))
        self._registered.move_to_end(tick.spec_hash)
        return known

    def _declared_task(self, tick: Tick) -> _Known:
        known = self._of_declared.get(tick.task_key)
        if known is None:
            spec = self._declared.tasks.get(tick.task_key)
            if spec is None:
                raise _CannotBegin(f"task {tick.path} is not declared any more")
            known = _Known(spec, spec.spec_hash, load_checks(spec), load_gate(spec))
            self._of_declared[tick.task_key] = known
        return known

    def _refuse_undeclared(self, spec: TaskSpec) -> None:
        # It was looked at when the task was registered; the declarations may have changed since.
        named = {f"checks[{index}].python": check.python for index, check in enumerate(spec.checks)}
        if spec.gate is not None:
            named["gate"] = spec.gate
        for place, reference in named.items():
            if reference not in self._declared.references:
                raise _CannotBegin(f"{place}: no declared task names {reference!r} any more")

    def _agent(self, name: str) -> Agent:
        if name not in self._agents:
            make = self._declared.agents.get(name)
            if make is None:
                there_is = ", ".join(sorted(self._declared.agents)) or "none"
                raise _CannotBegin(f"agent {name!r} is not declared any more; there is: {there_is}")
            self._agents[name] = make()
        return self._agents[name]
