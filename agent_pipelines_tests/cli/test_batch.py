from agent_pipelines.core.batch import BatchStatus
from agent_pipelines_tests.cli.conftest import Cli
from agent_pipelines_tests.execution.batch.splitting import Splitted
from agent_pipelines_tests.insight.filled import Filled


def test_batches_are_listed_and_shown(cli: Cli, record: Filled) -> None:
    assert cli.json("batch", "list") == {"batches": [], "next_before": None}
    split = Splitted(record.hub.database, record.clock, 2)
    split.advance()
    split.end(0, split.begin(split.ticks()[0]), failed=1)
    [batch] = cli.json("batch", "list")["batches"]
    assert (batch["id"], batch["progress"]["done"], batch["progress"]["failed"]) == (split.id, 9, 1)
    shown = cli.json("batch", "show", split.id[:18])
    assert [shard["status"] for shard in shown["shards"]] == ["succeeded", "pending"]
    for words in ("app/audit", "running", "20 in 2 shards of 10"):
        assert words in cli.ok("batch", "show", split.id)
    assert cli.json("batch", "items", split.id) == {"batch": split.id, "items": [], "next_after": None}
    assert "no batch's id begins with 'ff'" in cli.refused("batch", "show", "ff")


def test_a_batch_is_cancelled_and_resumed(cli: Cli, record: Filled) -> None:
    split = Splitted(record.hub.database, record.clock, 2)
    split.advance()
    assert cli.json("batch", "cancel", split.id) == {"batch": split.id, "cancelled_runs": []}
    assert split.status is BatchStatus.CANCELLED
    assert "has ended: it is cancelled" in cli.refused("batch", "cancel", split.id, code=1)
    done = cli("batch", "resume", split.id)
    assert "goes on with 2 shards" in done.stdout
    assert "no daemon starts its runs" in done.stderr
    [resumed, cancelled] = cli.json("audit", "list", "--object", "app/audit")["entries"]
    assert (resumed["action"], cancelled["action"]) == ("batch.resume", "batch.cancel")


def test_watching_ends_with_the_batch(cli: Cli, record: Filled) -> None:
    split = Splitted(record.hub.database, record.clock, 1)
    split.advance()
    split.work_off()
    split.merge(BatchStatus.FAILED)
    done = cli("batch", "watch", split.id)
    assert done.exit_code == 1
    assert done.stdout.startswith("failed, 10 of 10 done, 0 failed, 0 skipped")
    assert "--failed" in cli.refused("batch", "rerun", split.id)
    assert cli.json("batch", "rerun", split.id, "--failed") == {"batch": split.id, "shards": 0}
    split.merge()
    watched = cli.json("batch", "watch", split.id)
    assert (watched["status"], watched["done"]) == ("succeeded", 10)
