import pytest
from starlette.testclient import TestClient

from agent_pipelines_tests.insight.filled import Filled
from agent_pipelines_tests.web.conftest import client_of


def test_executions_are_listed_and_shown(filled: Filled) -> None:
    results = filled.everything()
    with client_of(filled.hub) as client:
        first = client.get("/executions", params={"limit": 2}).json()
        assert len(first["executions"]) == 2
        assert "invocation" not in first["executions"][0]
        rest = client.get("/executions", params={"before": first["next_before"], "limit": 100}).json()
        assert rest["next_before"] is None
        shown = client.get(f"/executions/{results[0].execution_id}").json()
        assert shown["execution"]["id"] == results[0].execution_id
        assert [attempt["number"] for attempt in shown["attempts"]][:1] == [1]
        failed = client.get("/executions", params={"status": "failed"}).json()["executions"]
        assert {execution["status"] for execution in failed} == {"failed"}
        assert client.get("/executions/nothing").status_code == 404


@pytest.mark.parametrize("value", ["\\u0000", "\\ud800"])
def test_what_the_record_cannot_hold_is_refused(client: TestClient, value: str) -> None:
    headers = {"Content-Type": "application/json"}
    sent = client.post("/events", content=f'{{"type": "mail", "data": {{"a": ["{value}"]}}}}', headers=headers)
    assert (sent.status_code, "cannot hold" in sent.json()["detail"]) == (400, True)
    assert client.get("/tasks", params={"text": "a\0b"}).status_code == 400


def test_an_event_is_taken_once(client: TestClient) -> None:
    event = {"type": "mail.received", "data": {"from": "kim"}, "key": "m1"}
    first = client.post("/events", json=event)
    again = client.post("/events", json=event)
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == {"id": first.json()["id"], "new": False}
    assert client.post("/events", json={"data": {}}).json()["errors"][0]["field"] == "type"


def test_a_task_is_named_by_its_path_or_by_its_parts(filled: Filled) -> None:
    filled.everything()
    with client_of(filled.hub) as client:
        listed = client.get("/executions", params={"limit": 100}).json()["executions"]
        application, task = listed[0]["application"], listed[0]["task"]
        by_path = client.get("/executions", params={"task": f"{application}/{task}", "limit": 100}).json()
        by_parts = client.get("/executions", params={"application": application, "task": task, "limit": 100}).json()
    assert by_path == by_parts
    assert 0 < len(by_path["executions"]) < len(listed)
