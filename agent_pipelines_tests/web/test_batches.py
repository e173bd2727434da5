from agent_pipelines.core.clock import ManualClock
from agent_pipelines.store.database import Database
from agent_pipelines_tests.execution.batch.splitting import Splitted
from agent_pipelines_tests.web.conftest import client_of


def test_batches_are_listed_shown_and_carried_on(database: Database, clock: ManualClock) -> None:
    split = Splitted(database, clock, 2)
    split.advance()
    split.end(0, split.begin(split.ticks()[0]), failed=1)
    with client_of(split.hub) as client:
        (listed,) = client.get("/batches", params={"task": "app/audit"}).json()["batches"]
        assert (listed["id"], listed["status"], listed["progress"]["done"], listed["progress"]["open"]) == (
            split.id,
            "running",
            9,
            10,
        )
        assert client.get("/batches", params={"status": "failed"}).json()["batches"] == []
        shown = client.get(f"/batches/{split.id}").json()
        assert [shard["status"] for shard in shown["shards"]] == ["succeeded", "pending"]
        assert client.get(f"/batches/{split.id}/items", params={"status": "failed"}).json() == {"items": [], "next_after": None}
        assert client.post(f"/batches/{split.id}/resume").status_code == 409
        assert client.post(f"/batches/{split.id}/cancel").json() == {"batch": split.id, "runs": []}
        assert client.post(f"/batches/{split.id}/cancel").status_code == 409
        assert client.post(f"/batches/{split.id}/resume").json() == {"batch": split.id, "shards": 2}
        assert client.post("/batches/nothing/cancel").status_code == 404
    with database.reading() as connection:
        assert {entry.actor for entry in split.hub.audit.list(connection, object="app/audit")} == {"api:token"}
