import pytest
import sqlalchemy as sa

from agent_pipelines.core.clock import SystemClock, isoformat
from agent_pipelines.core.duration import Duration
from agent_pipelines.core.execution import Verdict
from agent_pipelines.core.invocation import Origin
from agent_pipelines.core.trigger import Interval
from agent_pipelines.engine.timekeeper import Timekeeper
from agent_pipelines.store.tables import ticks
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


MINUTE = 60_000_000


@pytest.fixture
def kept(record: Filled) -> Filled:
    """A record in which the last half hour of a trigger has been kept."""
    now = SystemClock().now()
    record.clock.time = now - 30 * MINUTE
    hub = record.hub
    with hub.database.transaction() as connection:
        trigger = Interval(every=Duration(60), catch_up="none")
        hub.triggers.put(connection, CHECKER.key, trigger, source="declared", state="on", actor="kim")
    record.clock.time = now
    Timekeeper(hub.database, hub.triggers, hub.ticks, hub.executions, record.clock).look()
    with hub.database.transaction() as connection:
        for tick in hub.ticks.open(connection):
            hub.ticks.decide(connection, CHECKER.key, tick.trigger, tick.occurrence, Verdict.SKIPPED, reason="nothing to do")
    return record


def test_books_that_close(cli: Cli, kept: Filled) -> None:
    found = cli.json("tick", "audit", "--since", "1h", "--until", isoformat(kept.clock.now()))
    assert (found["closes"], found["problems"], found["watched"], found["gaps"]) == (True, [], 1, [])
    (account,) = found["accounts"]
    assert (account["task"], account["trigger"], account["kind"]) == ("quality/checker", "interval", "interval")
    assert account["due"] == account["missed"] + account["skipped"] == found["total"]["due"]
    assert account["due"] in (29, 30, 31)
    shown = cli.ok("ticks", "audit", "--since", "1h", "--until", isoformat(kept.clock.now()))
    for words in ("interval", "launch failed", "not yet", "closes", "all accounted for"):
        assert words in shown
    assert "quality/checker" in cli.ok("tick", "audit", "--until", isoformat(kept.clock.now()), "--verbose")


def test_books_that_do_not_close(cli: Cli, kept: Filled) -> None:
    until = isoformat(kept.clock.now())
    with kept.hub.database.transaction() as connection:
        gone = connection.execute(sa.select(ticks.c.seq).order_by(ticks.c.due_at).offset(3).limit(2)).scalars().all()
        connection.execute(sa.delete(ticks).where(ticks.c.seq.in_(gone)))
    done = cli("tick", "audit", "--until", until, "--task", "checker", "--application", "quality")
    assert done.exit_code == 1, done.output
    for words in ("Gaps", "quality/checker", "does not close", "2 due without a tick"):
        assert words in done.stdout
    assert cli("tick", "audit", "--until", until, "--json").exit_code == 1
    assert cli("tick", "audit", "--since", "5m", "--until", until).exit_code == 0


def test_nothing_to_audit(cli: Cli, record: Filled) -> None:
    assert "no daemon of agent-pipelines kept the time; nothing to audit" in cli.ok("tick", "audit")
    assert "is not before --until" in cli.refused("tick", "audit", "--since", "1h", "--until", "2h")
    assert "no task is named 'a/b'" in cli.refused("tick", "audit", "--task", "a/b")
    assert "is no instant" in cli.refused("tick", "audit", "--since", "yesterday")
