"""Where an attempt is made."""

import asyncio
import random
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from agent_pipelines.core.breaker import SPEAKS_OF_NODE
from agent_pipelines.core.clock import Clock, Microseconds
from agent_pipelines.core.errors import ErrorClass, ExecutionFailed, RuntimeFailure, Stage, StorageError
from agent_pipelines.execution.fleet_view import FleetView, SeenNode, look, missing_label
from agent_pipelines.execution.fleet_watch import FleetAlerts
from agent_pipelines.execution.holdings import Holdings
from agent_pipelines.execution.mailbox import DatabaseMailbox
from agent_pipelines.execution.work import Failure, Success, Waiting, Work
from agent_pipelines.fleet.nouns import Fleet
from agent_pipelines.ledger.recordable import recordable_text
from agent_pipelines.runtimes.fleet import Agent, Node, Place
from agent_pipelines.runtimes.node import NodeRuntime
from agent_pipelines.store.database import Connection, Database

_FRESH = 1_000_000  # microseconds for which what was seen of a fleet is good enough
_LOOKING = 1.0  # seconds between two looks while no node is available
_BUSY = 0.5  # seconds between two tries while all nodes are busy, unless one becomes free here
_HEALTH = 5.0  # seconds that a look at a node's health may take
_PROBE_GRACE = 60.0  # seconds beyond an attempt's limit after which its word on a node is not waited for any more
_LAG = 50  # attempts by which a node may lag behind before that no longer counts: it must not get everything

# The node has answered, whatever it has answered.
_SILENT_ON_NODE = SPEAKS_OF_NODE | {ErrorClass.INTERNAL, ErrorClass.CANCELLED}


@dataclass(frozen=True)
class _Held:
    agent: Agent
    node: str
    had_failures: bool
    probe: str | None

    @property
    def key(self) -> tuple[str, str]:
        return (self.agent.name, self.node)


class Placement:
    """Chooses the place of each attempt of an execution, before it is recorded, and hears how it ended.

    Of the nodes that are there, well and not full, and have the labels that the task asks for, it draws two and takes the one
    with less to do. A further attempt goes to another node, a conversation that the runtime keeps to the node that has it.
    """

    def __init__(self, database: Database, clock: Clock, fleet: Fleet, alerts: FleetAlerts) -> None:
        self._database = database
        self._clock = clock
        self._fleet = fleet
        self._alerts = alerts
        self._holdings = Holdings(database, clock, fleet)
        self._mailbox = DatabaseMailbox(database, clock, fleet.orders)
        self._views: dict[str, FleetView] = {}
        self._declared: OrderedDict[str, object] = OrderedDict()
        self._looking: dict[tuple[int, str], asyncio.Task[FleetView]] = {}
        self._held: dict[int, _Held] = {}
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    async def choose(self, work: Work) -> Place:
        """The place of the attempt that is to begin; waits until there is one.

        Raises ExecutionFailed (no_agent) if no node becomes available in time, and (timeout) if all stay busy.
        """
        agent, placement = work.agent, work.spec.placement
        preferred = await self._preferred(work)
        none_since: Microseconds | None = None
        while True:
            view = await self._view(agent)
            now = self._clock.now()
            there = [seen for seen in view.nodes if seen.obstacle(now) is None]
            able = [seen for seen in there if missing_label(seen.stored, placement.labels) is None]
            if work.only_node is not None:
                able = [seen for seen in able if seen.name == work.only_node]
            is_well = any(seen.is_well(now) for seen in there)
            if is_well == view.is_out:
                await self._note_outage(agent, view, now, is_out=not is_well)
            if able:
                none_since = None
                if any(seen.name == preferred for seen in able):
                    able = [seen for seen in able if seen.name == preferred]
                place = await self._take_one(work, able, len(view.nodes) > 1)
                if place is not None:
                    return place
                left, pause = work.remaining(self._clock.now()), _BUSY
                if left <= 0:
                    raise ExecutionFailed(
                        ErrorClass.TIMEOUT, Stage.INVOKE, f"all nodes of agent {agent.name} were busy until the limit of time"
                    )
            else:
                none_since = now if none_since is None else none_since
                left = min(placement.wait - (now - none_since) / 1_000_000, work.remaining(now))
                if left <= 0:
                    words = f"no node of agent {agent.name} is available: {view.obstacles(now, placement.labels)}"
                    raise ExecutionFailed(ErrorClass.NO_AGENT, Stage.INVOKE, words)
                pause = _LOOKING
                self._views.pop(agent.name, None)
            await self._pause(agent.name, min(pause, left))

    async def leave(self, work: Work, outcome: Success | Failure | Waiting | None) -> None:
        """Give up the place of `work` after its attempt; an outcome of None means that it was cancelled or never made.

        May be called again after that, without effect.
        """
        held = self._held.pop(id(work), None)
        if held is None:
            return
        await self._holdings.give_back(held.key)
        for waiting in self._waiting.get(held.agent.name, ()):
            if not waiting.done():
                waiting.get_loop().call_soon_threadsafe(_wake, waiting)
                break
        # What is said of a node must not end an execution.
        with suppress(StorageError):
            await self._judge(work, held, outcome)

    async def _preferred(self, work: Work) -> str | None:
        """The node that has something of this work: its order, or its conversation."""
        agent, key = work.agent, work.invocation.idempotency_key
        if _fetches(agent):
            order = await self._database.read(lambda c: self._fleet.orders.adoptable(c, key))
            if order is not None and order.agent == agent.name:
                return order.node
        if _keeps_session(work):
            return await self._database.read(lambda c: self._fleet.sessions.get(c, work.spec, agent.name))
        return None

    async def _take_one(self, work: Work, able: Sequence[SeenNode], has_choice: bool) -> Place | None:
        agent = work.agent
        for seen in self._in_order(work, able):
            key = (agent.name, seen.name)
            if self._is_full(seen, key):
                continue
            probe: str | None = None
            if seen.breaker is not None and seen.breaker.state != "closed":
                probe = f"{work.stored.id}:{work.attempt}"
                if not await self._may_try(work, seen, probe):
                    continue
            if not await self._holdings.take(key, seen.stored.capacity):
                if probe is not None:
                    await self._give_up_probe(key, probe)
                continue
            had_failures = seen.breaker is not None and seen.breaker.failures > 0
            self._held[id(work)] = _Held(agent, seen.name, had_failures, probe)
            work.nodes_tried.append(seen.name)
            try:
                if has_choice:
                    await self._holdings.introduce()
            except BaseException:
                await self.leave(work, None)
                raise
            return Place(agent, self._node(agent, seen))
        return None

    def _in_order(self, work: Work, able: Sequence[SeenNode]) -> Sequence[SeenNode]:
        """The order in which nodes are asked: those that are to be tried again, the lighter of two, the others."""
        others = [seen for seen in able if seen.name not in work.nodes_tried]
        if not others:
            others = [seen for seen in able if seen.name != work.nodes_tried[-1]] or list(able)
        tried = [seen for seen in able if seen not in others]
        if len(others) > 1:
            placed, weigh = self._holdings.placed(work.agent.name), all(seen.stored.capacity is not None for seen in others)
            most = max(seen.placed + placed.get(seen.name, 0) for seen in others)

            def load(seen: SeenNode) -> tuple[bool, float, int]:
                name, capacity = seen.name, seen.stored.capacity
                running = seen.others + self._holdings.in_flight((work.agent.name, name))
                is_untried = seen.breaker is not None and seen.breaker.state != "closed"
                share = running / capacity if weigh and capacity is not None else running
                return not is_untried, share, max(seen.placed + placed.get(name, 0), most - _LAG)

            # Of the nodes with least to do all processes would choose the same one, until it has the most.
            drawn = random.Random(f"{work.stored.id}:{work.attempt}").sample(others, len(others))
            others = [*sorted(drawn[:2], key=load), *sorted(drawn[2:], key=load)]
            others.sort(key=lambda seen: load(seen)[0])
        return [*others, *tried]

    def _is_full(self, seen: SeenNode, key: tuple[str, str]) -> bool:
        capacity = seen.stored.capacity
        if capacity is None or self._holdings.has_permit(key):
            return False
        return self._holdings.in_flight(key) + seen.others >= capacity

    async def _may_try(self, work: Work, seen: SeenNode, probe: str) -> bool:
        """Whether this attempt may go to a node that has failed: as the one that tries it, or because it is well again."""
        agent, node = work.agent, seen.name
        self._views.pop(agent.name, None)
        seconds = work.spec.timeout.attempt + _PROBE_GRACE
        if not await self._database.write(lambda c: self._fleet.breakers.take_probe(c, agent.name, node, probe, seconds)):
            return False
        try:
            async with asyncio.timeout(_HEALTH):
                await self._node(agent, seen).runtime.health()
        except NotImplementedError:
            return True
        except TimeoutError:
            why = Failure(ErrorClass.TIMEOUT, Stage.INVOKE, f"did not tell its health within {_HEALTH:g} s")
        except RuntimeFailure as failure:
            why = Failure(failure.error_class, Stage.INVOKE, failure.message)
        except BaseException:
            await self._give_up_probe((agent.name, node), probe)
            raise
        else:
            return True
        await self._database.write(lambda c: self._fail(c, agent, node, why, probe))
        return False

    async def _judge(self, work: Work, held: _Held, outcome: Success | Failure | Waiting | None) -> None:
        agent, node = held.agent, held.node
        match outcome:
            case Failure(stage=Stage.INVOKE) if outcome.error_class in SPEAKS_OF_NODE:
                self._views.pop(agent.name, None)
                await self._database.write(lambda c: self._fail(c, agent, node, outcome, held.probe))
            case None:
                if held.probe is not None:
                    await self._give_up_probe(held.key, held.probe)
            case Failure() if outcome.error_class in _SILENT_ON_NODE:
                if held.probe is not None:
                    await self._give_up_probe(held.key, held.probe)
            case _:
                has_session = isinstance(outcome, Success) and _keeps_session(work)
                if held.probe is not None or held.had_failures:
                    self._views.pop(agent.name, None)
                    await self._database.write(lambda c: self._succeed(c, agent, node, held.probe))
                if has_session:
                    await self._database.write(lambda c: self._fleet.sessions.put(c, work.spec, agent.name, node))

    def _fail(self, connection: Connection, agent: Agent, node: str, failure: Failure, probe: str | None) -> None:
        error_class, reason = str(failure.error_class), recordable_text(failure.message)
        change = self._fleet.breakers.fail(
            connection, agent.name, node, agent.breaker, error_class=error_class, reason=reason, probe=probe
        )
        if change is not None:
            self._alerts.node(connection, agent.name, node, change, error_class=error_class, reason=reason)

    def _succeed(self, connection: Connection, agent: Agent, node: str, probe: str | None) -> None:
        change = self._fleet.breakers.succeed(connection, agent.name, node, probe=probe)
        if change is not None:
            self._alerts.node(connection, agent.name, node, change)
            self._alerts.agent(connection, agent.name, None)

    async def _give_up_probe(self, key: tuple[str, str], probe: str) -> None:
        self._views.pop(key[0], None)
        await self._database.write(lambda c: self._fleet.breakers.give_up_probe(c, *key, probe))

    async def _note_outage(self, agent: Agent, view: FleetView, now: Microseconds, *, is_out: bool) -> None:
        self._views.pop(agent.name, None)
        reason = view.obstacles(now, {})
        await self._database.write(lambda c: self._alerts.agent(c, agent.name, reason if is_out else None))

    async def _view(self, agent: Agent) -> FleetView:
        await self._declare(agent)
        view, now = self._views.get(agent.name), self._clock.now()
        if view is not None and 0 <= now - view.at < _FRESH:
            return view
        key = (id(asyncio.get_running_loop()), agent.name)
        looking = self._looking.get(key)
        if looking is None or looking.done():
            looking = self._looking[key] = asyncio.create_task(self._look(agent))
            looking.add_done_callback(lambda done: self._looking.pop(key, None))
        return await asyncio.shield(looking)

    async def _look(self, agent: Agent) -> FleetView:
        process, now = self._holdings.process, self._clock.now()
        told = self._holdings.told(agent.name)
        source = "registered" if _fetches(agent) else "declared"
        view = await self._database.read(lambda c: look(c, self._fleet, agent.name, process, now, source, told))
        if source == "declared":
            # A process with another version of the project may have noted other nodes.
            ours = {node.name for node in agent.nodes}
            view = replace(view, nodes=[seen for seen in view.nodes if seen.name in ours])
            if len(view.nodes) < len(ours):
                self._declared.pop(agent.name, None)
        self._views[agent.name] = view
        return view

    def _node(self, agent: Agent, seen: SeenNode) -> Node:
        runtime = agent.nodes[0].runtime
        if isinstance(runtime, NodeRuntime):
            bound = runtime.at(agent.name, seen.name, self._mailbox)
            return Node(seen.name, bound, capacity=seen.stored.capacity, labels=seen.stored.labels)
        return next(node for node in agent.nodes if node.name == seen.name)

    async def _declare(self, agent: Agent) -> None:
        """Note the nodes that are declared, once a process for each declaration."""
        declared: Mapping[str, tuple[int | None, Mapping[str, str]]] = {}
        if not _fetches(agent):
            declared = {node.name: (node.capacity, node.labels) for node in agent.nodes}
        if self._declared.get(agent.name) == declared:
            return
        known = await self._database.read(lambda c: self._fleet.nodes.of(c, agent.name))
        if {each.name: (each.capacity, each.labels) for each in known if each.source == "declared"} != declared:
            await self._database.write(lambda c: self._fleet.nodes.declare(c, agent.name, declared))
        self._declared[agent.name] = declared
        self._views.pop(agent.name, None)

    async def _pause(self, agent: str, seconds: float) -> None:
        """Wait for a while, or until an attempt of this process on a node of the agent has ended."""
        free: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue = self._waiting.setdefault(agent, deque())
        queue.append(free)
        sleeping = asyncio.ensure_future(self._clock.sleep(seconds))
        try:
            await asyncio.wait((sleeping, free), return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleeping.cancel()
            queue.remove(free)
            if not queue:
                self._waiting.pop(agent, None)


def _fetches(agent: Agent) -> bool:
    return isinstance(agent.nodes[0].runtime, NodeRuntime)


def _keeps_session(work: Work) -> bool:
    return work.spec.session.mode != "fresh" and work.agent.capabilities.keeps_sessions


def _wake(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)
