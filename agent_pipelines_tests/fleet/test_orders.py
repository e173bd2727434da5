import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from agent_pipelines.core.clock import ManualClock
from agent_pipelines.fleet.nouns import Fleet
from agent_pipelines.fleet.orders import OrderRefused, WorkOrder
from agent_pipelines.store.database import Connection, Database
from agent_pipelines.store.tables import work_orders


@pytest.fixture
def fleet(clock: ManualClock) -> Fleet:
    return Fleet.of(clock)


def put(fleet: Fleet, connection: Connection, key: str = "work", node: str = "a") -> WorkOrder:
    return fleet.orders.put(connection, key, agent="agent", node=node, invocation={"task": key}, lease=30)


def claim(fleet: Fleet, connection: Connection, worker: str = "w", *held: str, limit: int = 5) -> list[str]:
    return [order.id for order in fleet.orders.claim(connection, "agent", "a", worker, held=held, limit=limit)]


def test_an_order_is_given_once_and_again_to_a_worker_that_does_not_know_of_it(database: Database, fleet: Fleet) -> None:
    with database.transaction() as connection:
        ids = [put(fleet, connection, key).id for key in ("1", "2", "3")]
        put(fleet, connection, "4", node="b")
        assert claim(fleet, connection, "w", limit=2) == ids[:2]
        assert claim(fleet, connection, "w", ids[0], limit=1) == [ids[1]]  # the answer was lost
        assert claim(fleet, connection, "w", *ids[:2]) == [ids[2]]
        assert claim(fleet, connection, "other") == []


def test_events_are_kept_once_in_order_and_without_gaps(database: Database, fleet: Fleet) -> None:
    with database.transaction() as connection:
        order = put(fleet, connection)
        claim(fleet, connection)
        say = lambda *seqs: fleet.orders.report(connection, order.id, "w", 1, [(seq, {"n": seq}) for seq in seqs])  # noqa: E731
        assert [say(1, 2), say(1, 2, 3), say(5), say(4, 5)] == [2, 3, 3, 5]
        assert [event["n"] for event in fleet.orders.events(connection, order.id, 1)] == [2, 3, 4, 5]
        with pytest.raises(OrderRefused, match="send the rest"):
            fleet.orders.finish(connection, order.id, "w", 1, last_seq=6)
        fleet.orders.finish(connection, order.id, "w", 1, last_seq=5)
        fleet.orders.finish(connection, order.id, "w", 1, last_seq=5)
        with pytest.raises(OrderRefused, match="is finished"):
            say(6)


def test_a_lease_that_is_over_is_not_renewed_and_nothing_is_taken_from_it(
    database: Database, fleet: Fleet, clock: ManualClock
) -> None:
    with database.transaction() as connection:
        order = put(fleet, connection)
        claim(fleet, connection)
        clock.time += 30_000_000
        assert fleet.orders.renew(connection, "w", [order.id]) == [order.id]
        clock.time += 30_000_001
        assert fleet.orders.renew(connection, "w", [order.id]) == []
        with pytest.raises(OrderRefused, match="lease"):
            fleet.orders.report(connection, order.id, "w", 1, [])
        assert fleet.orders.end_silent(connection, [order.id]) == 1
        again = put(fleet, connection, node="b")
        assert (again.fence, again.node) == (2, "b")
        with pytest.raises(OrderRefused, match="is lost"):
            fleet.orders.finish(connection, order.id, "w", 1, last_seq=0)


def test_another_worker_or_fence_is_refused(database: Database, fleet: Fleet) -> None:
    with database.transaction() as connection:
        order = put(fleet, connection)
        claim(fleet, connection)
        for worker, fence in (("other", 1), ("w", 2)):
            with pytest.raises(OrderRefused, match="was not given to this worker"):
                fleet.orders.report(connection, order.id, worker, fence, [])
        with pytest.raises(OrderRefused, match="there is no order"):
            fleet.orders.report(connection, "none", "w", 1, [])


def test_a_new_worker_fences_off_what_the_one_before_it_held(database: Database, fleet: Fleet) -> None:
    with database.transaction() as connection:
        order = put(fleet, connection)
        claim(fleet, connection, "old")
        assert fleet.orders.fence_off(connection, "agent", "a", "new") == 1
        with pytest.raises(OrderRefused):
            fleet.orders.finish(connection, order.id, "old", 1, last_seq=0)


def test_work_is_not_handed_out_twice(database: Database, fleet: Fleet) -> None:
    with database.transaction() as connection:
        order = put(fleet, connection)
        assert put(fleet, connection, node="b").id == order.id
        claim(fleet, connection)
        fleet.orders.finish(connection, order.id, "w", 1, last_seq=0)
        assert put(fleet, connection).id == order.id  # nobody has read its answer
        fleet.orders.collected(connection, order.id)
        assert put(fleet, connection).fence == 2
    with database.reading() as connection:
        open_one = connection.execute(sa.select(work_orders).where(work_orders.c.state == "queued")).mappings().one()
    with pytest.raises(IntegrityError), database.transaction() as connection:
        connection.execute(work_orders.insert(), {**open_one, "id": "another", "fence": 9})


def test_an_order_for_a_silent_node_is_withdrawn(database: Database, fleet: Fleet, clock: ManualClock) -> None:
    with database.transaction() as connection:
        fleet.nodes.register(connection, "agent", "a", actor="test", worker="w")
        order = put(fleet, connection)
        assert fleet.orders.end_silent(connection, [order.id]) == 0
        clock.time += 16_000_000
        assert fleet.orders.end_silent(connection, [order.id]) == 1
        assert claim(fleet, connection) == []
        assert fleet.orders.standings(connection, [order.id])[order.id].state == "withdrawn"


def test_old_orders_are_forgotten(database: Database, fleet: Fleet, clock: ManualClock) -> None:
    with database.transaction() as connection:
        order = put(fleet, connection)
        assert fleet.orders.cancel(connection, order.id)
        assert not fleet.orders.cancel(connection, order.id)
        clock.time += 2 * 86_400_000_000
        put(fleet, connection, "other")
        assert fleet.orders.get(connection, order.id) is None
