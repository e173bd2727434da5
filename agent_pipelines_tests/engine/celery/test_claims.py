from agent_pipelines.core.clock import ManualClock
from agent_pipelines.engine.celery.claims import RunClaims
from agent_pipelines.engine.celery.silence import Silence
from agent_pipelines.engine.celery.workers import Workers
from agent_pipelines.store.database import Database

SECOND = 1_000_000
WHO = {"worker": "w1", "host": "h1", "pid": 1}


def test_a_run_is_claimed_once_and_under_its_newest_attempt_only(database: Database, clock: ManualClock) -> None:
    claims = RunClaims(clock)
    with database.transaction() as connection:
        assert claims.issue(connection, "run", "dagster").attempt == 1
        first = claims.take(connection, "run", 1, **WHO)  # type: ignore[arg-type]
        assert first is not None
        assert claims.take(connection, "run", 1, **WHO) is None, "a message that came twice"  # type: ignore[arg-type]
        assert claims.issue(connection, "run", "dagster").attempt == 2
        assert claims.take(connection, "run", 1, **WHO) is None, "one that came late"  # type: ignore[arg-type]
        assert claims.beat(connection, "w1", {"run": 1}) == {}
        assert not claims.end(connection, first, "over")
        second = claims.take(connection, "run", 2, **WHO)  # type: ignore[arg-type]
        assert second is not None
        assert set(claims.beat(connection, "w1", {"run": 2})) == {"run"}
        assert claims.end(connection, second, "over")
        assert claims.take(connection, "run", 2, **WHO) is None, "one that was delivered again"  # type: ignore[arg-type]
        assert claims.open(connection) == []


def test_who_beats_meanwhile_is_not_lost(database: Database, clock: ManualClock) -> None:
    claims = RunClaims(clock)
    with database.transaction() as connection:
        claims.issue(connection, "run", "dagster")
        seen = claims.take(connection, "run", 1, **WHO)  # type: ignore[arg-type]
        assert seen is not None
        clock.time += SECOND
        (beaten,) = claims.beat(connection, "w1", {"run": 1}).values()
        assert not claims.end_if_silent(connection, seen, "lost")
        assert claims.end_if_silent(connection, beaten, "lost")


def test_a_waiting_run_is_withdrawn_and_a_held_one_is_asked_to_end(database: Database, clock: ManualClock) -> None:
    claims = RunClaims(clock)
    with database.transaction() as connection:
        claims.issue(connection, "waits", "dagster")
        assert not claims.cancel(connection, "waits")
        assert claims.take(connection, "waits", 1, **WHO) is None  # type: ignore[arg-type]
        claims.issue(connection, "held", "dagster")
        claims.take(connection, "held", 1, **WHO)  # type: ignore[arg-type]
        assert claims.cancel(connection, "held")
        (held,) = claims.beat(connection, "w1", {"held": 1}).values()
        assert held.cancel_asked_at == clock.now()


def test_workers_that_beat_are_alive(database: Database, clock: ManualClock) -> None:
    workers = Workers(clock)
    with database.transaction() as connection:
        workers.start(connection, "w1", "one", host="h1", pid=1, queues=["gpu", "dagster"], concurrency=2)
        clock.time += 10 * SECOND
        workers.beat(connection, "w1", running=2)
        clock.time += 10 * SECOND
        (worker,) = workers.alive(connection)
        assert (worker.queues, worker.running) == (("gpu", "dagster"), 2)
        clock.time += 10 * SECOND
        assert workers.alive(connection) == []
        assert [each.name for each in workers.known(connection)] == ["one"]
        clock.time += 86_400 * SECOND
        workers.start(connection, "w2", "two", host="h1", pid=2, queues=[], concurrency=1)
        assert not workers.beat(connection, "w1", running=0), "it was forgotten"


def test_silence_grows_only_while_somebody_listens() -> None:
    now = 0.0
    silence = Silence(lambda: now)
    assert silence.seconds("run", 1) == 0.0
    now = 2.0
    assert silence.seconds("run", 1) == 2.0
    now = 100.0  # the database was away: those that live could not beat either
    assert silence.seconds("run", 1) == 5.0
    assert silence.seconds("run", 2) == 0.0
