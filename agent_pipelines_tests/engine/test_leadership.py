import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from agent_pipelines.engine.leadership import AdvisoryLeadership, FileLeadership, SecondDaemon
from agent_pipelines.store.database import Database


class Standing:
    """A process that wants to lead, as a thread."""

    def __init__(self, url: sa.URL, pulse: Callable[[], object] = object, silent: float = 1_000.0) -> None:
        self.leads = threading.Event()
        self.lost = threading.Event()
        self.beats = threading.Semaphore(0)
        self._stop = threading.Event()
        self.leadership = AdvisoryLeadership(url, lambda reason: self.lost.set(), pulse, silent=silent)
        self._thread = threading.Thread(target=self._acquire)
        self._thread.start()

    def _acquire(self) -> None:
        if self.leadership.acquire(self._stop, self.beats.release):
            self.leads.set()

    def wait_until_it_stands_by(self) -> None:
        for _ in range(3):
            self.beats.acquire()

    def end(self) -> None:
        self._stop.set()
        self._thread.join()
        self.leadership.release()


@pytest.fixture
def url(postgres_url: str) -> sa.URL:
    return Database(postgres_url).url


@pytest.fixture
def stand(url: sa.URL) -> Iterator[Callable[..., Standing]]:
    all_of_them: list[Standing] = []

    def one(*given: object, **named: object) -> Standing:
        all_of_them.append(Standing(url, *given, **named))  # type: ignore[arg-type]
        return all_of_them[-1]

    yield one
    for each in all_of_them:
        each.end()


def test_one_leads_and_the_next_follows_when_it_ends(stand: Callable[..., Standing]) -> None:
    first = stand()
    first.leads.wait()
    second = stand()
    second.wait_until_it_stands_by()
    assert not second.leads.is_set()
    first.end()
    second.leads.wait()
    assert not first.lost.is_set(), "it went of its own will"


def test_a_leader_that_lives_is_not_deposed(stand: Callable[..., Standing]) -> None:
    stand().leads.wait()
    numbers = iter(range(1_000_000))
    second = stand(lambda: next(numbers), silent=0.0)
    second.wait_until_it_stands_by()
    assert not second.leads.is_set()


def test_a_leader_without_a_sign_of_life_is_deposed_and_learns_of_it(stand: Callable[..., Standing]) -> None:
    first = stand()
    first.leads.wait()
    second = stand(lambda: "the same", silent=0.1)
    second.leads.wait()
    first.lost.wait()


def test_the_second_daemon_of_a_sqlite_deployment_is_refused_with_the_process_that_is_in_its_way(tmp_path: Path) -> None:
    first, second = FileLeadership(tmp_path), FileLeadership(tmp_path)
    assert first.acquire(threading.Event(), lambda: None)
    with pytest.raises(SecondDaemon, match=f"process {os.getpid()} keeps the time of .* already; SQLite is for one daemon"):
        second.acquire(threading.Event(), lambda: None)
    first.release()
    assert second.acquire(threading.Event(), lambda: None)
    second.release()
