import pytest
from sqlalchemy.exc import IntegrityError

from agent_pipelines.core.clock import ManualClock
from agent_pipelines.fleet.nodes import NodeInUse, Nodes, UnknownNode
from agent_pipelines.store.database import Database
from agent_pipelines.store.tables import nodes as table


@pytest.fixture
def nodes(clock: ManualClock) -> Nodes:
    return Nodes(clock)


def test_what_is_declared_follows_the_declaration(database: Database, nodes: Nodes, clock: ManualClock) -> None:
    with database.transaction() as connection:
        nodes.declare(connection, "agent", {"a": (None, {}), "b": (2, {"zone": "x"})})
        nodes.drain(connection, "agent", "b")
        nodes.declare(connection, "agent", {"b": (3, {"zone": "y"}), "c": (None, {})})
        found = nodes.of(connection, "agent")
    told = [(node.name, node.capacity, node.labels, node.state(clock.now())) for node in found]
    assert told == [("b", 3, {"zone": "y"}, "draining"), ("c", None, {}, "live")]


def test_a_registered_node_lives_as_long_as_its_worker_says_so(database: Database, nodes: Nodes, clock: ManualClock) -> None:
    with database.transaction() as connection:
        known = nodes.register(connection, "agent", "a", actor="cli:me", capacity=4, labels={"zone": "x"})
        assert known.state(clock.now()) == "silent"
        here = nodes.register(connection, "agent", "a", actor="api:a", worker="w1")
        assert (here.state(clock.now()), here.capacity, here.labels) == ("live", 4, {"zone": "x"})
        clock.time += 15_000_000
        assert here.state(clock.now()) == "live"
        assert nodes.beat(connection, "agent", "a", "w1").beat_at == clock.now()
        clock.time += 15_000_001
        assert nodes.get(connection, "agent", "a").state(clock.now()) == "silent"
        nodes.register(connection, "agent", "a", actor="api:a", worker="w2")
        with pytest.raises(NodeInUse, match="another worker"):
            nodes.beat(connection, "agent", "a", "w1")
        nodes.leave(connection, "agent", "a", "w1")
        assert nodes.get(connection, "agent", "a").state(clock.now()) == "live"
        nodes.leave(connection, "agent", "a", "w2")
        assert nodes.get(connection, "agent", "a").state(clock.now()) == "silent"


def test_names_of_declared_and_registered_nodes_do_not_meet(database: Database, nodes: Nodes) -> None:
    with database.transaction() as connection:
        nodes.declare(connection, "agent", {"a": (None, {})})
        nodes.register(connection, "agent", "b", actor="me")
        with pytest.raises(NodeInUse, match="choose another name"):
            nodes.register(connection, "agent", "a", actor="me", capacity=9)
        with pytest.raises(NodeInUse, match="drain it"):
            nodes.remove(connection, "agent", "a")
        nodes.declare(connection, "agent", {"b": (5, {})})
        assert [(each.name, each.source, each.capacity) for each in nodes.of(connection, "agent")] == [("b", "registered", None)]
        nodes.remove(connection, "agent", "b")
        for verb in (nodes.get, nodes.drain, nodes.resume, nodes.remove):
            with pytest.raises(UnknownNode, match="agent 'agent' has no node 'b'"):
                verb(connection, "agent", "b")


def test_nodes_come_in_pages(database: Database, nodes: Nodes) -> None:
    with database.transaction() as connection:
        for agent in ("one", "two"):
            for name in "abc":
                nodes.register(connection, agent, name, actor="me")
        first = nodes.list(connection, limit=4)
        rest = nodes.list(connection, after=(first[-1].agent, first[-1].name), limit=4)
    assert [f"{node.agent}/{node.name}" for node in [*first, *rest]] == ["one/a", "one/b", "one/c", "two/a", "two/b", "two/c"]


def test_the_database_refuses_what_no_node_can_be(database: Database, nodes: Nodes) -> None:
    with database.transaction() as connection:
        nodes.declare(connection, "agent", {"a": (None, {})})
    for wrong in ({"capacity": 0}, {"source": "guessed"}, {"beat_at": 1}):
        with pytest.raises(IntegrityError), database.transaction() as connection:
            connection.execute(table.update().values(**wrong))
