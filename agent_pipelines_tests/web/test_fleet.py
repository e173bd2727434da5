from typing import Any

import pytest
from starlette.testclient import TestClient

from agent_pipelines.core.clock import ManualClock
from agent_pipelines.core.declared import Declared
from agent_pipelines.hub import Hub
from agent_pipelines_tests.web.conftest import client_of

NODE = "/agents/local/nodes/berlin"
WORKER = {"worker": "w1"}


@pytest.fixture
def client(hub: Hub) -> TestClient:
    return client_of(hub, lambda: Declared(agents=("local", "writer"), node_agents=("local",)))


def post(client: TestClient, path: str, **body: Any) -> Any:
    answer = client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def put_order(hub: Hub, key: str = "work") -> str:
    with hub.database.transaction() as connection:
        return hub.fleet.orders.put(connection, key, agent="local", node="berlin", invocation={"task": key}, lease=30).id


def test_a_worker_registers_is_given_work_and_reports_it(hub: Hub, client: TestClient) -> None:
    told = post(client, f"{NODE}/register", **WORKER, capacity=2, labels={"gpu": "yes"}, runtime="fake")["node"]
    assert (told["state"], told["capacity"], told["labels"]) == ("live", 2, {"gpu": "yes"})
    assert post(client, f"{NODE}/pull", **WORKER, wait=0) == {"orders": []}
    order_id = put_order(hub)
    (order,) = post(client, f"{NODE}/pull", **WORKER, wait=30)["orders"]
    assert order == {"id": order_id, "fence": 1, "lease": 30.0, "invocation": {"task": "work"}}
    assert post(client, f"{NODE}/beat", **WORKER, held=[order_id, "unknown"]) == {"held": [order_id], "state": "live"}
    event = {"seq": 1, "event": {"kind": "final", "text": "done"}}
    assert post(client, f"/orders/{order_id}/events", **WORKER, fence=1, events=[event]) == {"last_seq": 1}
    assert post(client, f"/orders/{order_id}/finish", **WORKER, fence=1, last_seq=1) == {}
    late = client.post(f"/orders/{order_id}/events", json={**WORKER, "fence": 1, "events": []})
    assert (late.status_code, late.headers["content-type"]) == (409, "application/problem+json")
    assert "comes too late" in late.json()["detail"]
    post(client, f"{NODE}/leave", **WORKER)
    assert client.get("/nodes").json()["nodes"][0]["state"] == "silent"


def test_an_agent_whose_nodes_do_not_fetch_work_gets_none(client: TestClient) -> None:
    answer = client.post("/agents/writer/nodes/a/register", json=WORKER)
    assert answer.status_code == 422
    assert "there is: local" in answer.json()["errors"][0]["fix"]


def test_a_worker_that_was_replaced_has_no_say(hub: Hub, client: TestClient) -> None:
    post(client, f"{NODE}/register", **WORKER)
    order_id = put_order(hub)
    post(client, f"{NODE}/pull", **WORKER)
    post(client, f"{NODE}/register", worker="w2")
    for verb in ("beat", "pull"):
        assert client.post(f"{NODE}/{verb}", json=WORKER).status_code == 409
    refused = client.post(f"/orders/{order_id}/finish", json={**WORKER, "fence": 1, "last_seq": 0})
    assert refused.status_code == 409


def test_nodes_are_drained_resumed_and_removed(hub: Hub, client: TestClient, clock: ManualClock) -> None:
    assert client.put(NODE, json={"capacity": 3}).json()["node"]["state"] == "silent"
    post(client, f"{NODE}/register", **WORKER)
    assert post(client, f"{NODE}/drain")["node"]["state"] == "draining"
    (agent,) = client.get("/agents").json()["agents"]
    assert (agent["agent"], agent["is_available"], agent["nodes"][0]["reason"]) == ("local", False, "is draining")
    assert post(client, f"{NODE}/resume")["node"]["state"] == "live"
    shown = client.get("/agents/local").json()
    assert (shown["agent"]["live"], shown["running"], shown["latest"]) == (1, [], [])
    assert client.delete(NODE).status_code == 200
    assert client.delete(NODE).status_code == 404
    assert client.get("/agents/local").status_code == 404
    with hub.database.reading() as connection:
        actions = [row.action for row in hub.audit.list(connection)]
    assert actions == ["node.remove", "node.resume", "node.drain", "node.register", "node.register"]


def test_nobody_is_served_without_the_token(client: TestClient) -> None:
    client.headers.pop("Authorization")
    for path in (f"{NODE}/register", f"{NODE}/pull", "/orders/1/events"):
        assert client.post(path, json=WORKER).status_code == 401


def test_a_secret_in_an_event_is_not_kept(hub: Hub, client: TestClient) -> None:
    post(client, f"{NODE}/register", **WORKER)
    order_id = put_order(hub)
    post(client, f"{NODE}/pull", **WORKER)
    event = {"seq": 1, "event": {"kind": "text", "text": "the key is sk-0123456789abcdef"}}
    post(client, f"/orders/{order_id}/events", **WORKER, fence=1, events=[event])
    with hub.database.reading() as connection:
        assert hub.fleet.orders.events(connection, order_id, 0) == [{"kind": "text", "text": "the key is [secret]"}]
