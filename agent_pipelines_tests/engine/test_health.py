from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from dagster import DagsterInstance

from agent_pipelines.core.clock import ManualClock
from agent_pipelines.core.errors import StorageError
from agent_pipelines.core.invocation import Origin
from agent_pipelines.engine.celery.workers import Workers
from agent_pipelines.engine.daemons import Daemons
from agent_pipelines.engine.health import Health, HealthCheck
from agent_pipelines.engine.stack_state import ServiceState, StackState
from agent_pipelines.engine.ticks import Ticks
from agent_pipelines.engine.warm.identity import HOST, ProcessIdentity
from agent_pipelines.store.database import Database


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[DagsterInstance]:
    with DagsterInstance.local_temp(str(tmp_path)) as instance:
        yield instance


@pytest.fixture
def check(instance: DagsterInstance, database: Database, clock: ManualClock) -> HealthCheck:
    return HealthCheck(instance, database, clock)


def lead(database: Database, clock: ManualClock) -> None:
    with database.transaction() as connection:
        Daemons(clock).beat(connection, "one", "leader")


def stack(home: Path) -> StackState:
    own = ProcessIdentity.own()
    service = ServiceState("web server", own.pid, own.started, 0, 2, -9)
    state = StackState(HOST, own.pid, own.started, own.pid, own.started, 0, "http://x", 0, False, (service,))
    state.write(home)
    return state


def kinds(health: Health) -> dict[str, str]:
    return {each.kind: each.words for each in health.processes}


def test_without_a_daemon_nothing_keeps_the_time(check: HealthCheck, database: Database, clock: ManualClock) -> None:
    assert not check.look().is_well
    assert check.look().problems == ("no daemon keeps the time: start `agent-pipelines up`, or `agent-pipelines daemon`",)
    lead(database, clock)
    with database.transaction() as connection:
        Workers(clock).start(connection, "w", "gpu-1", host="far", pid=7, queues=["gpu"], concurrency=4)
    health = check.look()
    assert health.is_well
    assert kinds(health) == {"daemon": "leader", "worker": "gpu-1: 0 of 4 runs, queues gpu"}
    assert (health.runs_queued, health.runs_in_hand, health.bursts, health.waiting_since_at) == (0, 0, 0, None)
    clock.time += 16_000_000
    assert not check.look().is_well, "a leader that says nothing is none"


def test_daemons_of_dagster_that_are_silent_are_told_once_the_leader_had_its_time(
    check: HealthCheck, database: Database, clock: ManualClock
) -> None:
    lead(database, clock)
    clock.time += 61_000_000
    lead(database, clock)
    assert any("Dagster's daemon SENSOR is never heard of" in words for words in check.look().problems)


def test_ticks_that_no_run_comes_for_are_told(check: HealthCheck, database: Database, clock: ManualClock) -> None:
    with database.transaction() as connection:
        Ticks(clock).claim(
            connection, ("default", "a", "t"), "cron", "1", origin=Origin.SCHEDULE, due_at=clock.now(), lane="burst"
        )
    lead(database, clock)
    assert check.look().is_well
    clock.time += 59_000_000
    lead(database, clock)
    assert check.look().is_well
    clock.time += 2_000_000
    lead(database, clock)
    assert any(words.startswith("ticks wait since ") for words in check.look().problems)


def test_dagsters_own_storage_that_is_broken_is_told(
    check: HealthCheck, instance: DagsterInstance, database: Database, clock: ManualClock
) -> None:
    lead(database, clock)
    assert check.look().is_well
    (Path(instance.root_directory) / "history" / "runs.db").write_bytes(b"no database" * 1_000)
    (words,) = check.look().problems
    assert "not a database" in words


def test_what_the_stack_says_of_itself(
    check: HealthCheck, instance: DagsterInstance, database: Database, clock: ManualClock
) -> None:
    lead(database, clock)
    state = stack(Path(instance.root_directory))
    assert check.look().is_well
    assert kinds(check.look()) == {"up": "http://x", "web server": "started again 2 times", "daemon": "leader"}
    dead = replace(state, services=(replace(state.services[0], pid=None, started=None),))
    dead.write(Path(instance.root_directory))
    (words,) = check.look().problems
    assert words.startswith("the web server ended with exit code -9 and is started again; why stands in ")
    replace(state, started="elsewhen").write(Path(instance.root_directory))
    assert check.look().problems == ("`agent-pipelines up` was killed here; start it again",)


def test_a_record_of_another_version_or_none(instance: DagsterInstance, tmp_path: Path, clock: ManualClock) -> None:
    empty = Database(f"sqlite:///{tmp_path / 'empty.db'}")
    assert HealthCheck(instance, empty, clock).look().problems == (
        "there are no tables of this version yet: `agent-pipelines up` makes them, or `agent-pipelines migrate`",
    )
    away = Database("postgresql://nobody:hidden-word@127.0.0.1:9/none")
    (words,) = HealthCheck(instance, away, clock).look().problems
    assert "hidden-word" not in words
    with pytest.raises(StorageError), away.reading():
        pass
