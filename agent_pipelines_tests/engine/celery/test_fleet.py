"""Runs on three hosts with a real broker and PostgreSQL: what becomes of them when hosts, workers and messages are lost."""

import os
import signal
import time
from collections.abc import Iterator

import psutil
import pytest
from dagster._core.launcher import WorkerStatus

from agent_pipelines_tests.engine.celery.hosts import Fleet, fleet

LEASE, MARGIN = 3.0, 1.5


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    settings = {"lease": LEASE, "margin": MARGIN, "resend_after": 2.0, "unserved_after": 2.0}
    with fleet(tmp_path_factory.mktemp("fleet"), hosts=3, **settings) as made:
        for host in made.hosts:
            host.start()
        made.until(lambda: len(made.workers()) == 3, "the workers do not start")
        yield made


@pytest.fixture(autouse=True)
def as_before(hosts: Fleet) -> Iterator[None]:
    """Each test finds three workers that serve the default queue."""
    yield
    for host in hosts.hosts:
        if not host.processes() or not psutil.pid_exists(host.pid) or psutil.Process(host.pid).status() == "zombie":
            host.signal(signal.SIGKILL)
            host.start()
    hosts.until(lambda: len({each.pid for each in hosts.workers() if psutil.pid_exists(each.pid)}) >= 3, "no three workers")


def helper_of(hosts: Fleet, run_id: str) -> int:
    """The process that a run has started in a session of its own."""
    hosts.until(lambda: any("helper" in note[0] for note in hosts.notes(run_id)), "no helper")
    return next(int(note[0].partition("=")[2]) for note in hosts.notes(run_id) if "helper" in note[0])


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_many_runs_are_executed_once_each_on_several_hosts(hosts: Fleet) -> None:
    runs = [hosts.launch("short") for _ in range(12)]
    assert {hosts.ended(run_id) for run_id in runs} == {"SUCCESS"}
    assert all(hosts.words(run_id) == {"begin": 1, "end": 1} for run_id in runs)


def test_a_run_is_cancelled_also_if_it_does_not_listen(hosts: Fleet) -> None:
    deaf, listening = hosts.launch("stubborn"), hosts.launch("waiting")
    hosts.until(lambda: hosts.words(deaf)["deaf"] and hosts.words(listening)["works"], "the runs do not begin")
    assert hosts.launcher.terminate(deaf)
    assert hosts.launcher.terminate(listening)
    assert {hosts.ended(deaf), hosts.ended(listening)} == {"CANCELED"}


def test_a_queue_that_nobody_serves_is_told_and_a_waiting_run_is_cancelled_at_once(hosts: Fleet) -> None:
    run_id = hosts.launch("short", queue="gpu")
    hosts.until(lambda: "No worker serves queue 'gpu'" in hosts.messages(run_id), "nothing is told")
    assert hosts.launcher.terminate(run_id)
    assert hosts.ended(run_id) == "CANCELED"
    assert hosts.words(run_id) == {}


def test_a_killed_worker_takes_its_runs_with_it_and_they_fail(hosts: Fleet) -> None:
    run_id = hosts.launch("waiting")
    host, helper = hosts.host_of(run_id), helper_of(hosts, run_id)
    began = time.monotonic()
    os.kill(next(each.pid for each in hosts.workers() if each.id == hosts.claim(run_id).worker), signal.SIGKILL)
    hosts.until(lambda: is_gone(helper), "what the run has started lives on", LEASE)
    assert hosts.ended(run_id) == "FAILURE"
    assert time.monotonic() - began < LEASE + MARGIN + 5.0
    assert f"on {host.name}, which had the run, has been silent" in hosts.messages(run_id)
    assert hosts.launcher.check_run_worker_health(hosts.run(run_id)).status is WorkerStatus.SUCCESS


def test_a_worker_that_is_asked_to_stop_finishes_its_runs_unless_it_is_asked_again(hosts: Fleet) -> None:
    run_id = hosts.launch("waiting")
    host, helper = hosts.host_of(run_id), helper_of(hosts, run_id)
    worker = psutil.Process(host.pid)
    worker.terminate()
    hosts.until(lambda: "is asked to stop: 1 runs at hand are finished first" in host.log(), "it does not say that it stops")
    worked = hosts.words(run_id)["works"]
    hosts.until(lambda: hosts.words(run_id)["works"] > worked + 20, "it does not go on with its run")
    worker.terminate()
    assert hosts.ended(run_id) == "FAILURE"
    assert "was asked to stop, and then to hurry" in hosts.messages(run_id)
    hosts.until(lambda: is_gone(helper), "what the run has started lives on")
    hosts.until(lambda: is_gone(worker.pid), "it does not end")
    assert host.name not in {each.name for each in hosts.workers()}
    others = [hosts.launch("short") for _ in range(4)]
    assert {hosts.ended(each) for each in others} == {"SUCCESS"}


def test_a_host_that_is_cut_off_kills_its_run_before_it_is_resumed_and_does_no_harm_when_it_is_back(hosts: Fleet) -> None:
    hosts.allow_resume(1)
    try:
        run_id = hosts.launch("waiting")
        host, helper = hosts.host_of(run_id), helper_of(hosts, run_id)
        host.cut()
        health = hosts.launcher.check_run_worker_health
        lost = hosts.until(lambda: health(hosts.run(run_id)).status is WorkerStatus.FAILED, "the loss is not noticed")
        assert lost < LEASE + MARGIN + 5.0
        assert is_gone(helper)
        last = max(float(note[3]) for note in hosts.notes(run_id))
        assert hosts.run(run_id).status.value == "STARTED"
        hosts.instance.resume_run(run_id, None, 1)  # type: ignore[arg-type]  # as run monitoring does
        hosts.until(lambda: hosts.words(run_id)["begin"] == 2, "it is not resumed")
        host.mend()
        hosts.until(lambda: any(each.name == host.name for each in hosts.workers()), "it does not come back")
        second = [float(note[3]) for note in hosts.notes(run_id) if note[0] == "begin"][1]
        assert last < second
        hosts.go_on()
        assert hosts.ended(run_id) == "SUCCESS"
        assert hosts.words(run_id)["end"] == 1
        assert hosts.claim(run_id).attempt == 2
    finally:
        hosts.allow_resume(0)
        (hosts.directory / "go-on").unlink(missing_ok=True)


def test_a_host_that_is_suspended_and_woken_does_not_go_on_with_a_run_that_was_given_away(hosts: Fleet) -> None:
    hosts.allow_resume(1)
    try:
        run_id = hosts.launch("waiting")
        host, helper = hosts.host_of(run_id), helper_of(hosts, run_id)
        host.signal(signal.SIGSTOP)
        process = int(next(note[2] for note in hosts.notes(run_id) if note[0] == "begin"))
        health = hosts.launcher.check_run_worker_health
        hosts.until(lambda: health(hosts.run(run_id)).status is WorkerStatus.FAILED, "the loss is not noticed")
        hosts.instance.resume_run(run_id, None, 1)  # type: ignore[arg-type]  # as run monitoring does
        hosts.until(lambda: hosts.words(run_id)["begin"] == 2, "it is not resumed")
        assert not is_gone(process)
        host.signal(signal.SIGCONT)
        hosts.until(lambda: is_gone(process) and is_gone(helper), "the run goes on beside its successor")
        successor = hosts.claim(run_id)
        assert (successor.attempt, successor.ended_at) == (2, None)
        hosts.go_on()
        assert hosts.ended(run_id) == "SUCCESS"
        assert hosts.words(run_id)["end"] == 1
        hosts.until(lambda: any(each.name == host.name for each in hosts.workers()), "it does not serve again")
    finally:
        hosts.allow_resume(0)
        (hosts.directory / "go-on").unlink(missing_ok=True)


def test_runs_of_a_queue_are_executed_only_where_it_is_served(hosts: Fleet) -> None:
    host = hosts.hosts[-1]
    waiting = hosts.launch("short", queue="gpu")
    others = [hosts.launch("short") for _ in range(6)]
    assert {hosts.ended(run_id) for run_id in others} == {"SUCCESS"}
    assert hosts.claim(waiting).claimed_at is None
    host.signal(signal.SIGKILL)
    try:
        host.start("gpu")
        wanting = [waiting, *(hosts.launch("short", queue="gpu") for _ in range(5))]
        others = [hosts.launch("short") for _ in range(6)]
        assert {hosts.ended(run_id) for run_id in (*wanting, *others)} == {"SUCCESS"}
        (serving,) = (each.id for each in hosts.workers() if each.queues == ("gpu",))
        assert {hosts.claim(run_id).worker for run_id in wanting} == {serving}
        assert serving not in {hosts.claim(run_id).worker for run_id in others}
        assert all(hosts.words(run_id) == {"begin": 1, "end": 1} for run_id in (*wanting, *others))
    finally:
        host.signal(signal.SIGKILL)


@pytest.mark.parametrize("how", ["stopped", "suspended"])
def test_a_run_whose_worker_cannot_reach_postgresql_for_longer_than_its_lease_ends_and_the_next_ones_run(
    hosts: Fleet, how: str
) -> None:
    run_id = hosts.launch("waiting")
    helper = helper_of(hosts, run_id)
    if how == "stopped":
        hosts.postgres.stop(remove=False)
    else:
        hosts.postgres.signal(signal.SIGSTOP)
    try:
        hosts.until(lambda: is_gone(helper), "the run goes on although others may have it")
    finally:
        if how == "stopped":
            hosts.postgres.start()
        else:
            hosts.postgres.signal(signal.SIGCONT)
    assert hosts.ended(run_id) == "FAILURE"
    assert "has been silent" in hosts.messages(run_id)
    assert hosts.words(run_id)["end"] == 0
    runs = [hosts.launch("short") for _ in range(6)]
    assert {hosts.ended(each) for each in runs} == {"SUCCESS"}


def test_a_broker_that_lost_everything_loses_no_run(hosts: Fleet) -> None:
    for host in hosts.hosts:
        os.kill(host.pid, signal.SIGSTOP)
    held = hosts.launch("short")
    hosts.broker.kill()
    refused = hosts.launch("short")
    for host in hosts.hosts:
        os.kill(host.pid, signal.SIGCONT)
    hosts.broker.start()
    assert {hosts.ended(held), hosts.ended(refused)} == {"SUCCESS"}
    assert hosts.words(held) == hosts.words(refused) == {"begin": 1, "end": 1}
