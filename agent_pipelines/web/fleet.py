"""What the HTTP interface does with agents and nodes, and what it says to the nodes that fetch their work."""

import asyncio
from collections.abc import Callable, Sequence
from http import HTTPStatus

from agent_pipelines.core.declared import Declared
from agent_pipelines.core.errors import DefinitionError
from agent_pipelines.core.plain import record
from agent_pipelines.execution.fleet_standing import agent_standings
from agent_pipelines.fleet.nodes import StoredNode
from agent_pipelines.fleet.orders import WorkOrder
from agent_pipelines.hub import Hub
from agent_pipelines.ledger.recordable import recordable
from agent_pipelines.store.database import Connection
from agent_pipelines.web.asked import (
    AgentPage,
    NodeBeat,
    NodeGiven,
    NodeHere,
    NodeLeaves,
    NodePage,
    NodePull,
    Nothing,
    OrderEnd,
    OrderReport,
)
from agent_pipelines.web.call import Call
from agent_pipelines.web.operation import Answer, Operation
from agent_pipelines.web.problem import Refused
from agent_pipelines.web.pulls import Pulls

_NODE = "/agents/{agent}/nodes/{node}"


class FleetOperations:
    """Agents, their nodes, and the work of those that fetch it. `declared` tells which agents have such nodes."""

    def __init__(self, hub: Hub, declared: Callable[[], Declared]) -> None:
        self._hub = hub
        self._fleet = hub.fleet
        self._declared = declared
        self._pulls = Pulls(hub.database, hub.fleet.orders)

    def all(self) -> Sequence[Operation]:
        """The operations."""
        return (
            Operation("GET", "/agents", "Agents that have worked or have nodes, and whether they are available.", self.agents),
            Operation("GET", "/agents/{agent}", "An agent: its nodes and what runs on them.", self.agent, query=AgentPage),
            Operation("GET", "/nodes", "Nodes by agent and name.", self.nodes, query=NodePage),
            Operation("PUT", _NODE, "Let a node be known, or change it.", self.put, body=NodeGiven),
            Operation("DELETE", _NODE, "Forget a registered node.", self.remove),
            Operation("POST", f"{_NODE}/drain", "Give a node nothing new.", self.drain, body=Nothing),
            Operation("POST", f"{_NODE}/resume", "Give a drained node work again.", self.resume, body=Nothing),
            Operation("POST", f"{_NODE}/register", "A worker is there for a node.", self.register, body=NodeHere),
            Operation("POST", f"{_NODE}/beat", "A worker lives; its leases move on.", self.beat, body=NodeBeat),
            Operation("POST", f"{_NODE}/pull", "A worker asks for work, and waits for it.", self.pull, body=NodePull),
            Operation("POST", f"{_NODE}/leave", "A worker ends.", self.leave, body=NodeLeaves),
            Operation("POST", "/orders/{id}/events", "What comes of an order.", self.report, body=OrderReport),
            Operation("POST", "/orders/{id}/finish", "An order has ended.", self.finish, body=OrderEnd),
        )

    def agents(self, call: Call) -> Answer:
        with self._hub.database.reading() as connection:
            found = agent_standings(connection, self._fleet, self._hub.clock.now())
        return HTTPStatus.OK, {"agents": [record(each) for each in found]}

    def agent(self, call: Call) -> Answer:
        asked, name = call.query(AgentPage), call.path["agent"]
        with self._hub.database.reading() as connection:
            standings = agent_standings(connection, self._fleet, self._hub.clock.now(), agent=name)
            attempts = self._hub.executions.attempts
            running = attempts.on(connection, name, node=asked.node, is_running=True, limit=asked.limit)
            latest = attempts.on(connection, name, node=asked.node, is_running=False, limit=asked.limit)
        if not standings and not latest and not running:
            raise Refused(HTTPStatus.NOT_FOUND, f"no agent {name} is known")
        return HTTPStatus.OK, {
            "agent": record(standings[0]) if standings else None,
            "running": [record(each) for each in running],
            "latest": [record(each) for each in latest],
        }

    def nodes(self, call: Call) -> Answer:
        asked = call.query(NodePage)
        agent, slash, name = (asked.after or "").partition("/")
        after = (agent, name) if slash else None
        with self._hub.database.reading() as connection:
            page = self._fleet.nodes.list(connection, agent=asked.agent, after=after, limit=asked.limit)
        following = f"{page[-1].agent}/{page[-1].name}" if len(page) == asked.limit else None
        return HTTPStatus.OK, {"nodes": [self._told(each) for each in page], "next_after": following}

    def put(self, call: Call) -> Answer:
        agent, name, given = *_node(call), call.read(NodeGiven)
        self._refuse_undeclared(agent)
        with self._hub.database.transaction() as connection:
            stored = self._fleet.nodes.register(connection, agent, name, actor=call.actor, **given.model_dump())
            self._audit(connection, call, "node.register")
        return HTTPStatus.OK, {"node": self._told(stored)}

    def remove(self, call: Call) -> Answer:
        agent, name = _node(call)
        with self._hub.database.transaction() as connection:
            stored = self._fleet.nodes.remove(connection, agent, name)
            self._fleet.breakers.forget(connection, agent, name)
            self._audit(connection, call, "node.remove")
        return HTTPStatus.OK, {"node": self._told(stored)}

    def drain(self, call: Call) -> Answer:
        call.read(Nothing)
        with self._hub.database.transaction() as connection:
            stored = self._fleet.nodes.drain(connection, *_node(call))
            self._audit(connection, call, "node.drain")
        return HTTPStatus.OK, {"node": self._told(stored)}

    def resume(self, call: Call) -> Answer:
        call.read(Nothing)
        with self._hub.database.transaction() as connection:
            stored = self._fleet.nodes.resume(connection, *_node(call))
            self._audit(connection, call, "node.resume")
        return HTTPStatus.OK, {"node": self._told(stored)}

    def register(self, call: Call) -> Answer:
        agent, name, here = *_node(call), call.read(NodeHere)
        self._refuse_undeclared(agent)
        with self._hub.database.transaction() as connection:
            stored = self._fleet.nodes.register(connection, agent, name, actor=call.actor, **here.model_dump())
            self._fleet.orders.fence_off(connection, agent, name, here.worker)
            if stored.state(self._hub.clock.now()) == "live":
                self._hub.fleet_watch.alerts.agent(connection, agent, None)
            self._audit(connection, call, "node.register")
        return HTTPStatus.OK, {"node": self._told(stored)}

    async def beat(self, call: Call) -> Answer:
        agent, name, said = *_node(call), call.read(NodeBeat)

        def beat(connection: Connection) -> tuple[StoredNode, Sequence[str]]:
            stored = self._fleet.nodes.beat(connection, agent, name, said.worker)
            return stored, self._fleet.orders.renew(connection, said.worker, said.held)

        stored, held = await self._hub.database.write(beat)
        return HTTPStatus.OK, {"held": held, "state": stored.state(self._hub.clock.now())}

    async def pull(self, call: Call) -> Answer:
        agent, name, asked = *_node(call), call.read(NodePull)

        def claim(connection: Connection) -> Sequence[WorkOrder]:
            self._fleet.nodes.beat(connection, agent, name, asked.worker)
            self._fleet.orders.renew(connection, asked.worker, asked.held)
            return self._fleet.orders.claim(connection, agent, name, asked.worker, held=asked.held, limit=asked.limit)

        loop = asyncio.get_running_loop()
        until = loop.time() + asked.wait
        while True:
            orders = await self._hub.database.write(claim)
            left = until - loop.time()
            if orders or left <= 0:
                return HTTPStatus.OK, {"orders": [_given(order) for order in orders]}
            await self._pulls.wait((agent, name), left)

    def leave(self, call: Call) -> Answer:
        said = call.read(NodeLeaves)
        with self._hub.database.transaction() as connection:
            self._fleet.nodes.leave(connection, *_node(call), said.worker)
        return HTTPStatus.OK, {}

    async def report(self, call: Call) -> Answer:
        order_id, said = call.path["id"], call.read(OrderReport)
        events: list[tuple[int, dict[str, object]]] = []
        for each in said.events:
            kept = recordable(each.event)
            assert isinstance(kept, dict)
            events.append((each.seq, dict(kept)))
        last = await self._hub.database.write(
            lambda c: self._fleet.orders.report(c, order_id, said.worker, said.fence, events)  # pyright: ignore[reportArgumentType]
        )
        return HTTPStatus.OK, {"last_seq": last}

    async def finish(self, call: Call) -> Answer:
        order_id, said = call.path["id"], call.read(OrderEnd)
        failure = recordable(said.failure)
        assert failure is None or isinstance(failure, dict)
        await self._hub.database.write(
            lambda c: self._fleet.orders.finish(c, order_id, said.worker, said.fence, last_seq=said.last_seq, failure=failure)
        )
        return HTTPStatus.OK, {}

    def _told(self, node: StoredNode) -> dict[str, object]:
        return record(node, state=node.state(self._hub.clock.now()))

    def _refuse_undeclared(self, agent: str) -> None:
        declared = self._declared()
        if agent in declared.node_agents:
            return
        there_is = ", ".join(declared.node_agents) or "none"
        fix = f"Declare one with `runtime: node`; there is: {there_is}"
        raise DefinitionError(f"no agent {agent!r} is declared whose nodes fetch their work", field="agent", fix=fix)

    def _audit(self, connection: Connection, call: Call, action: str) -> None:
        self._hub.audit.record(connection, actor=call.actor, action=action, object="/".join(_node(call)))


def _node(call: Call) -> tuple[str, str]:
    return call.path["agent"], call.path["node"]


def _given(order: WorkOrder) -> dict[str, object]:
    return {"id": order.id, "fence": order.fence, "lease": order.lease_us / 1_000_000, "invocation": order.invocation}
