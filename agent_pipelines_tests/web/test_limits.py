from starlette.testclient import TestClient

from agent_pipelines.hub import Hub


def test_limits_over_http(client: TestClient, hub: Hub) -> None:
    done = client.put("/limits/agent/w", json={"concurrency": 2})
    assert done.status_code == 200, done.text
    assert done.json()["limit"]["concurrency"] == 2
    assert [each["scope"] for each in client.get("/limits").json()["limits"]] == ["agent/w"]
    assert client.get("/queue").json() == {"queue": []}
    assert client.delete("/limits/agent/w").json() == {"limit": None}
    assert client.delete("/limits/agent/w").status_code == 409
    with hub.database.reading() as connection:
        assert [entry.action for entry in hub.audit.list(connection)] == ["limit.clear", "limit.set"]


def test_what_is_wrong_is_said(client: TestClient) -> None:
    for path, body in (("w", {"concurrency": 1}), ("agent/w", {}), ("agent/w", {"requests": "ten"})):
        assert client.put(f"/limits/{path}", json=body).status_code in (400, 422), path
