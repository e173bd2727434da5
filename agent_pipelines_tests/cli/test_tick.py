from agent_pipelines.core.clock import isoformat
from agent_pipelines.core.execution import Verdict
from agent_pipelines.core.invocation import Origin
from agent_pipelines_tests.cli.conftest import Cli
from agent_pipelines_tests.insight.filled import CHECKER, HOUR, Filled


def test_ticks_with_verdicts(cli: Cli, record: Filled) -> None:
    assert cli.json("tick", "list") == {"ticks": [], "next_before": None}
    begun = record.clock.now()
    results = record.everything()
    with record.hub.database.transaction() as connection:
        record.hub.ticks.claim(connection, CHECKER.key, "cron", "9", origin=Origin.SCHEDULE, due_at=record.clock.now())
        late = record.hub.ticks.claim(connection, CHECKER.key, "cron", "8", origin=Origin.SCHEDULE, due_at=begun)[0]
        record.hub.ticks.decide(connection, CHECKER.key, "cron", late.occurrence, Verdict.MISSED, reason="no scheduler ran")
    ticks = cli.json("tick", "list")["ticks"]
    assert [tick["verdict"] for tick in ticks] == ["missed", None, "skipped", "ran", "ran", "ran", "ran", "ran"]
    assert ticks[-1]["execution_id"] == results[0].execution_id
    assert ticks[0]["due_at"] == isoformat(begun)
    assert len(cli.json("tick", "list", "--task", "digest", "--trigger", "event")["ticks"]) == 1
    assert len(cli.json("tick", "list", "--application", "quality", "--since", isoformat(begun + 4 * HOUR))["ticks"]) == 3
    assert len(cli.json("tick", "list", "--until", isoformat(begun))["ticks"]) == 1
    shown = cli.ok("tick", "list")
    for words in ("quality/checker", "missed", "no scheduler ran", "open", "nothing has changed"):
        assert words in shown


def test_pages(cli: Cli, record: Filled) -> None:
    record.everything()
    first = cli.json("tick", "list", "--limit", "4")
    rest = cli.json("tick", "list", "--limit", "4", "--before", str(first["next_before"]))
    assert [tick["seq"] for tick in first["ticks"] + rest["ticks"]] == [6, 5, 4, 3, 2, 1]
    assert rest["next_before"] is None
