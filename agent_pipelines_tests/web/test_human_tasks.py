from starlette.testclient import TestClient

from agent_pipelines.hub import Hub


def test_a_question_is_answered_over_http(client: TestClient, hub: Hub) -> None:
    with hub.database.transaction() as connection:
        asked = hub.human_tasks.open(
            connection,
            ("default", "orders", "refund"),
            subject="effect",
            subject_id="key",
            question="Was it paid?",
            options=["yes", "no"],
        )
    assert [task["id"] for task in client.get("/human-tasks").json()["human_tasks"]] == [asked.id]
    shown = client.get(f"/human-tasks/{asked.id}").json()["human_task"]
    assert (shown["question"], shown["options"], shown["answer"]) == ("Was it paid?", ["yes", "no"], None)
    wrong = client.post(f"/human-tasks/{asked.id}/answer", json={"answer": "perhaps"})
    assert (wrong.status_code, wrong.json()["errors"][0]["field"]) == (422, "answer")
    done = client.post(f"/human-tasks/{asked.id}/answer", json={"answer": "yes"}, headers={"X-Actor": "kim"})
    assert done.json()["human_task"]["answered_by"] == "api:kim"
    again = client.post(f"/human-tasks/{asked.id}/answer", json={"answer": "no"})
    assert (again.status_code, "answered by api:kim" in again.json()["detail"]) == (409, True)
    assert client.get("/human-tasks").json()["human_tasks"] == []
    assert client.get("/human-tasks", params={"state": "answered", "task": "orders/refund"}).json()["human_tasks"] != []
    assert client.get("/human-tasks/nothing").status_code == 404
    assert client.get(f"/human-tasks/{asked.id}", params={"workspace": "other"}).status_code == 404
