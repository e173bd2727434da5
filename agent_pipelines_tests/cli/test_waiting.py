from agent_pipelines.core.event import Question
from agent_pipelines_tests.cli.conftest import Cli
from agent_pipelines_tests.insight.filled import DIGEST, Filled


def test_what_waits_for_people_is_shown_and_cancelled(cli: Cli, record: Filled) -> None:
    result = record.execute(DIGEST, Question(text="Send it?", draft="Dear Kim"))
    asked = cli.json("human", "list")["human_tasks"][0]
    assert asked["execution_id"] == result.execution_id
    shown = cli.json("execution", "show", result.execution_id)
    assert shown["execution"]["status"] == "waiting"
    assert [(wait["kind"], wait["human_task_id"]) for wait in shown["waits"]] == [("human", asked["id"])]
    assert f"human task {asked['id']}" in cli.ok("execution", "show", result.execution_id)
    assert cli.json("execution", "cancel", result.execution_id)["execution"]["status"] == "cancelled"
    assert "only one that waits" in cli.refused("execution", "cancel", result.execution_id)
