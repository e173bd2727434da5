from agent_pipelines.core.task import TaskSpec
from agent_pipelines_tests.cli.conftest import Cli
from agent_pipelines_tests.insight.filled import DIGEST, Filled


def test_results_are_listed_and_given_up(cli: Cli, record: Filled) -> None:
    assert "no results" in cli.ok("cache", "list")
    task = TaskSpec.model_validate({**DIGEST.canonical(), "session": {"mode": "fresh"}, "cache": {"ttl": "5000d"}})
    record.execute(task, "A draft.")
    [kept] = cli.json("cache", "list", task.path)["results"]
    assert (kept["task"], kept["hits"]) == (task.name, 0)
    assert task.path in cli.ok("cache", "list")
    assert cli.ok("cache", "clear", "elsewhere/task").strip() == "0 given up"
    assert cli.ok("cache", "clear", task.path).strip() == "1 given up"
    assert "cache.clear" in cli.ok("audit", "list")
