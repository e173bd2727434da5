from typing import Any

import pytest
from starlette.testclient import TestClient

from agent_pipelines.core.clock import ManualClock, isoformat
from agent_pipelines.core.errors import DefinitionError
from agent_pipelines.core.execution import Verdict
from agent_pipelines.hub import Hub
from agent_pipelines_tests.registry.conftest import DECLARED, spec
from agent_pipelines_tests.web.conftest import client_of, task

PROBLEM = "application/problem+json"


def test_a_task_is_registered_and_shown(client: TestClient, clock: ManualClock) -> None:
    made = client.post("/tasks", json=task(), headers={"X-Actor": "kim"})
    assert made.status_code == 201
    told = made.json()["task"]
    assert (told["application"], told["task"], told["version"], told["state"], told["new"]) == (
        "inbox",
        "watch",
        1,
        "enabled",
        True,
    )
    assert (told["actor"], told["created_at"]) == ("api:kim", isoformat(clock.now()))
    assert client.post("/tasks", json=task()).status_code == 200
    shown = client.get("/tasks/inbox/watch").json()
    assert (shown["spec"]["lane"], shown["spec"]["prompt"]) == ("burst", "Watch it")
    (trigger,) = shown["triggers"]
    assert (trigger["trigger"], trigger["state"], trigger["definition"]["every"]) == ("interval", "on", 30)
    assert trigger["next_due_at"] == isoformat(clock.now() + 30_000_000)


def test_put_takes_the_name_from_the_address(client: TestClient) -> None:
    body = {name: value for name, value in task().items() if name not in ("name", "application")}
    assert client.put("/tasks/inbox/watch", json=body).status_code == 201
    changed = client.put("/tasks/inbox/watch", json={**body, "prompt": "Look at it"})
    assert (changed.status_code, changed.json()["task"]["version"]) == (201, 2)
    assert client.put("/tasks/inbox/watch", json={**body, "prompt": "Look at it"}).json()["task"]["new"] is False
    versions = client.get("/tasks/inbox/watch/versions", params={"limit": 1}).json()
    assert ([version["version"] for version in versions["versions"]], versions["next_before"]) == ([2], 2)
    rest = client.get("/tasks/inbox/watch/versions", params={"before": 2}).json()
    assert ([version["version"] for version in rest["versions"]], rest["next_before"]) == ([1], None)
    other = client.put("/tasks/inbox/watch", json={**body, "name": "other"})
    assert other.status_code == 422
    assert other.json()["errors"] == [
        {"field": "name", "problem": "is `other`, but the address says `watch`", "fix": "Leave it out"}
    ]


def test_many_tasks_come_in_pages(client: TestClient) -> None:
    told = client.post("/tasks", json=[task(f"t{number:02}") for number in range(25)])
    assert told.status_code == 200
    assert [each["new"] for each in told.json()["tasks"]] == [True] * 25
    seen: list[str] = []
    following: str | None = ""
    while following is not None:
        page = client.get("/tasks", params={"limit": 10} | ({"after": following} if following else {})).json()
        seen += [each["task"] for each in page["tasks"]]
        following = page["next_after"]
    assert seen == [f"t{number:02}" for number in range(25)]
    assert len(client.get("/tasks", params={"text": "t1", "agent": "writer"}).json()["tasks"]) == 10
    assert client.get("/tasks", params={"state": "paused"}).json()["tasks"] == []


def test_a_task_is_switched(client: TestClient) -> None:
    client.post("/tasks", json=task())
    paused = client.post("/tasks/inbox/watch/pause", json={"reason": "holidays"}).json()["task"]
    assert (paused["state"], paused["reason"], paused["actor"]) == ("paused", "holidays", "api:token")
    for verb, state in (("resume", "enabled"), ("disable", "disabled"), ("enable", "enabled")):
        assert client.post(f"/tasks/inbox/watch/{verb}").json()["task"]["state"] == state
    again = client.post("/tasks/inbox/watch/resume")
    assert (again.status_code, again.headers["content-type"]) == (409, PROBLEM)
    assert again.json() == {
        "type": "about:blank",
        "title": "Conflict",
        "status": 409,
        "detail": "task inbox/watch is enabled, not paused",
    }
    assert client.delete("/tasks/inbox/watch").json()["task"]["state"] == "removed"
    assert client.delete("/tasks/inbox/watch").status_code == 404
    assert client.get("/tasks/inbox/watch").json()["task"]["state"] == "removed"


def test_run_now_and_what_became_of_it(client: TestClient, hub: Hub) -> None:
    client.post("/tasks", json=task(triggers=[]))
    asked = {"variables": {"topic": "x"}, "logical_at": "2026-01-02T03:04:05+01:00"}
    run = client.post("/tasks/inbox/watch/run", json=asked, headers={"X-Actor": "kim"})
    assert run.status_code == 202
    tick = run.json()["tick"]
    assert (tick["lane"], tick["actor"], tick["logical_at"]) == ("burst", "api:kim", "2026-01-02T02:04:05Z")
    assert client.post("/tasks/inbox/watch/run").status_code == 202
    with hub.database.transaction() as connection:
        key = ("default", "inbox", "watch")
        hub.ticks.decide(connection, key, "on_demand", tick["occurrence"], Verdict.SKIPPED, reason="nothing to do")
    assert client.get(f"/ticks/{tick['id']}").json()["tick"]["reason"] == "nothing to do"
    page = client.get("/ticks", params={"task": "watch", "limit": 1}).json()
    assert (len(page["ticks"]), page["next_before"]) == (1, page["ticks"][0]["seq"])
    rest = client.get("/ticks", params={"before": page["next_before"], "since": "2020-01-01T00:00:00Z"}).json()["ticks"]
    assert [each["id"] for each in rest] == [tick["id"]]


def test_what_is_wrong_is_told_field_by_field(client: TestClient, hub: Hub) -> None:
    wrong = client.post("/tasks", json=task(agent="wrighter", lane="run"))
    assert (wrong.status_code, wrong.headers["content-type"]) == (422, PROBLEM)
    assert wrong.json()["detail"] == "2 fields are wrong"
    assert [error["field"] for error in wrong.json()["errors"]] == ["agent", "lane"]
    assert wrong.json()["errors"][0] == {
        "field": "agent",
        "problem": "no agent `wrighter` is declared",
        "fix": "Did you mean `writer`?",
    }
    many = client.post("/tasks", json=[task("good"), task("bad", agent="nobody"), task("worse", gate="os:remove"), 7])
    assert [error["field"] for error in many.json()["errors"]] == ["[3]"]
    many = client.post("/tasks", json=[task("good"), task("bad", agent="nobody"), task("worse", gate="os:remove")])
    assert [error["field"] for error in many.json()["errors"]] == ["[1].agent", "[2].gate"]
    with hub.database.reading() as connection:
        assert hub.registered.list(connection) == []


@pytest.mark.parametrize(
    ("method", "path", "arguments", "status", "words"),
    [
        ("GET", "/tasks/inbox/nothing", {}, 404, "no task inbox/nothing is registered"),
        ("GET", "/tasks/inbox/nothing/versions", {}, 404, "no task inbox/nothing was ever registered"),
        ("POST", "/tasks/inbox/nothing/run", {}, 404, "no task inbox/nothing is registered"),
        ("POST", "/tasks/inbox/nothing/pause", {"json": {}}, 422, "field `reason`: is missing"),
        ("POST", "/tasks/inbox/nothing/run", {"json": {"logical_at": "soon"}}, 422, "'soon' is no instant"),
        ("POST", "/tasks/inbox/nothing/run", {"json": [1]}, 422, "is not an object"),
        ("POST", "/tasks", {"json": None}, 422, "is not a task but NoneType"),
        ("POST", "/tasks", {"content": b"{", "headers": {"Content-Type": "application/json"}}, 400, "the body is not JSON"),
        ("POST", "/tasks", {"content": b"[NaN]", "headers": {"Content-Type": "application/json"}}, 400, "NaN is no JSON number"),
        ("POST", "/tasks", {"content": b"[" * 200_000, "headers": {"Content-Type": "application/json"}}, 400, "not JSON"),
        ("POST", "/tasks", {"data": {"name": "x"}}, 415, "send the body as application/json"),
        ("GET", "/tasks", {"params": {"limit": "0"}}, 422, "field `limit`"),
        ("GET", "/tasks", {"params": {"stat": "paused"}}, 422, "Did you mean `state`?"),
        ("GET", "/ticks", {"params": {"since": "soon"}}, 422, "'soon' is no instant"),
        ("GET", "/ticks/nothing", {}, 404, "there is no tick nothing"),
        ("GET", "/nothing", {}, 404, "GET /nothing is not offered"),
        ("PATCH", "/tasks", {}, 405, "PATCH /tasks is not offered"),
        ("POST", "/tasks", {"json": {}, "headers": {"X-Actor": "x" * 101}}, 400, "X-Actor: write a name"),
    ],
)
def test_refused(client: TestClient, method: str, path: str, arguments: dict[str, Any], status: int, words: str) -> None:
    refused = client.request(method, path, **arguments)
    assert (refused.status_code, refused.headers["content-type"]) == (status, PROBLEM)
    assert words in refused.json()["detail"]
    assert refused.json()["status"] == status


def test_a_body_has_an_end(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent_pipelines.web.call.MAX_BODY", 1_000)
    large = b'{"name": "' + b"x" * 1_000 + b'"}'
    headers = {"Content-Type": "application/json"}
    assert client.post("/tasks", content=large, headers=headers).status_code == 413
    pieces = (large[start : start + 100] for start in range(0, len(large), 100))
    assert client.post("/tasks", content=pieces, headers=headers).status_code == 413  # without an announced length


def test_workspaces_are_apart(client: TestClient) -> None:
    client.post("/tasks", params={"workspace": "lab"}, json=task())
    assert client.get("/tasks").json()["tasks"] == []
    assert [each["task"] for each in client.get("/tasks", params={"workspace": "lab"}).json()["tasks"]] == ["watch"]
    assert client.post("/tasks/inbox/watch/run").status_code == 404
    assert client.post("/tasks/inbox/watch/run", params={"workspace": "lab"}).status_code == 202


def test_no_secret_comes_back(client: TestClient) -> None:
    refused = client.post("/tasks", json=task(prompt="Use sk-verysecretkey0123456789"))
    assert refused.status_code == 422
    assert "verysecret" not in refused.text


def test_without_a_project_nothing_is_registered(hub: Hub) -> None:
    def declared() -> Any:
        raise DefinitionError("no code location tells what it declares")

    with client_of(hub, declared) as client:
        refused = client.post("/tasks", json=task())
    assert (refused.status_code, refused.json()["detail"]) == (422, "no code location tells what it declares")


def test_a_fault_tells_nothing_of_itself(hub: Hub) -> None:
    def declared() -> Any:
        raise RuntimeError("a detail of the inside")

    with client_of(hub, declared) as client:
        failed = client.post("/tasks", json=task())
    assert failed.status_code == 500
    assert "inside" not in failed.text


def test_a_record_that_is_gone_is_told(hub: Hub, client: TestClient) -> None:
    hub.registry.register(spec(), DECLARED, actor="a")
    with hub.database.transaction() as connection:
        connection.exec_driver_sql("ALTER TABLE daemons RENAME TO elsewhere")
    health = client.get("/health", headers={"Authorization": ""})
    assert (health.status_code, health.json()) == (503, {"status": "not ok"})
