from starlette.testclient import TestClient

from agent_pipelines.core.clock import ManualClock
from agent_pipelines.core.event import Usage
from agent_pipelines.core.execution import RunRef
from agent_pipelines.core.ids import new_id
from agent_pipelines.hub import Hub
from agent_pipelines_tests.execution.conftest import invocation, spec

TOKEN = "the-token-of-one-wait"


def waiting(hub: Hub, clock: ManualClock) -> tuple[str, str]:
    """An execution that waits, and its wait."""
    wait_id = new_id()
    with hub.database.transaction() as connection:
        asked = invocation(spec_hash=hub.ledger.specs.put(connection, spec()))
        run = RunRef(run_id="run")
        execution = hub.executions.admit(connection, asked, run, dedupe_key=None, trace_id="0" * 32).execution
        hub.executions.start_attempt(connection, execution.id, 1, run_id="run", agent="worker", node="main")
        hub.executions.waits.hold(
            connection,
            wait_id,
            execution.id,
            1,
            tries=1,
            agent="worker",
            node="main",
            handle="run-1",
            began_at=clock.now(),
            deadline_at=clock.now() + 1_000_000_000,
            poll_after=60,
            token=TOKEN,
        )
        hub.executions.waits.let_go(connection, execution.id, spent=Usage(), model=None)
        hub.executions.wait(connection, execution.id, run_id="run")
    return execution.id, wait_id


def test_a_callback_makes_a_wait_due_at_once(client: TestClient, hub: Hub, clock: ManualClock) -> None:
    _, wait_id = waiting(hub, clock)
    path = f"/waits/{wait_id}/callback"
    for wrong in ({}, {"Authorization": "Bearer something-else"}):
        client.headers.pop("Authorization", None)
        assert client.post(path, headers=wrong).status_code == 401
    assert client.post("/waits/nothing/callback", params={"token": TOKEN}).status_code == 401
    with hub.database.transaction() as connection:
        assert hub.executions.waits.take(connection, agents={"worker"}, lease=1) == []
    assert client.post(path, headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 202
    assert client.post(path, params={"token": TOKEN}, json={"state": "done"}).status_code == 202
    with hub.database.transaction() as connection:
        (due,) = hub.executions.waits.take(connection, agents={"worker"}, lease=1)
    assert due.called_back_at == clock.now()
    # The token of a wait opens nothing else.
    assert client.get("/executions", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 401


def test_an_execution_that_waits_is_shown_and_cancelled(client: TestClient, hub: Hub, clock: ManualClock) -> None:
    execution_id, wait_id = waiting(hub, clock)
    shown = client.get(f"/executions/{execution_id}").json()
    (wait,) = shown["waits"]
    assert (wait["id"], wait["state"], wait["handle"], wait["kind"]) == (wait_id, "waiting", "run-1", "remote")
    assert "token_hash" not in wait
    done = client.post(f"/executions/{execution_id}/cancel", json={})
    assert (done.status_code, done.json()["execution"]["status"]) == (200, "cancelled")
    assert client.post(f"/executions/{execution_id}/cancel").status_code == 409
    assert client.post("/executions/nothing/cancel").status_code == 404
    with hub.database.reading() as connection:
        assert hub.audit.list(connection)[0].action == "execution.cancel"
        (ended,) = hub.executions.waits.of(connection, execution_id)
    assert (ended.state, ended.cancel) == ("settled", "asked")
