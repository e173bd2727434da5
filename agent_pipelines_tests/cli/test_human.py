from agent_pipelines_tests.cli.conftest import Cli
from agent_pipelines_tests.insight.filled import DIGEST, Filled


def test_a_question_is_listed_shown_and_answered(cli: Cli, record: Filled) -> None:
    assert "nothing is asked" in cli.ok("human", "list")
    record.execute(DIGEST, "A draft.")
    hub = record.hub
    with hub.database.transaction() as connection:
        asked = hub.human_tasks.open(
            connection,
            DIGEST.key,
            subject="approval",
            subject_id="draft",
            question="Send it?",
            options=["approve", "reject", "edit"],
            context={"text": "Dear Kim"},
        )
    assert [task["id"] for task in cli.json("human", "list", "--task", "digest")["human_tasks"]] == [asked.id]
    assert "Dear Kim" in cli.ok("human", "show", asked.id[:18])
    assert "no human task's id begins with 'nothing'" in cli.refused("human", "show", "nothing")
    assert "Write one of approve, reject, edit" in cli.refused("human", "answer", asked.id, "perhaps", code=1)
    assert "--data is not JSON" in cli.refused("human", "answer", asked.id, "edit", "--data", "{")
    done = cli.json("human", "answer", asked.id, "edit", "--data", '{"text": "Hi Kim"}', "--comment", "shorter")["human_task"]
    assert (done["answer"], done["answer_data"], done["comment"]) == ("edit", {"text": "Hi Kim"}, "shorter")
    assert "was answered by cli:" in cli.refused("human", "answer", asked.id, "approve", code=1)
    assert cli.json("human", "list")["human_tasks"] == []
    assert len(cli.json("human", "list", "--state", "answered")["human_tasks"]) == 1
