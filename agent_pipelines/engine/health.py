"""What of a deployment runs, and what is wrong with it: read from files, tables and Dagster, without loading a project."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from dagster import DagsterInstance, DagsterRunStatus, RunsFilter
from pydantic import BaseModel, ConfigDict
from sqlalchemy.exc import SQLAlchemyError

from agent_pipelines.core.clock import Clock, Microseconds, isoformat
from agent_pipelines.core.errors import StorageError
from agent_pipelines.core.secrets import redactor
from agent_pipelines.engine.bursts import Bursts
from agent_pipelines.engine.celery.workers import Workers
from agent_pipelines.engine.daemons import Daemons
from agent_pipelines.engine.stack_state import StackState
from agent_pipelines.engine.ticks import Ticks
from agent_pipelines.engine.warm.place import WarmPlace
from agent_pipelines.store.database import Connection, Database
from agent_pipelines.store.migration import is_current

_BEGINNING = 60_000_000  # microseconds in which a daemon that has just taken over starts those of Dagster
_WAITING = 60_000_000  # microseconds after which a tick should have a run
_IN_HAND = (DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING)


class Process(BaseModel):
    """A process of a deployment; `words` says what it is at."""

    model_config = ConfigDict(frozen=True)

    kind: str
    host: str
    pid: int
    since_at: Microseconds | None
    words: str = ""


class Health(BaseModel):
    """How a deployment stands at an instant. It is well if nothing is in `problems`, each of which says what to do.

    `waiting_since_at` is when the first of the ticks was to begin that still wait for a run.
    """

    model_config = ConfigDict(frozen=True)

    at: Microseconds
    home: str
    problems: tuple[str, ...]
    processes: tuple[Process, ...] = ()
    runs_queued: int | None = None
    runs_in_hand: int | None = None
    bursts: int | None = None
    waiting_since_at: Microseconds | None = None

    @property
    def is_well(self) -> bool:
        """Whether everything runs that must."""
        return not self.problems


class HealthCheck:
    """Looks at a deployment. It brings no tables up to date. `more` reads further problems from them."""

    def __init__(
        self,
        instance: DagsterInstance,
        database: Database,
        clock: Clock,
        more: Callable[[Connection], Iterable[str]] = lambda connection: (),
    ) -> None:
        self._instance = instance
        self._database = database
        self._clock = clock
        self._more = more
        self._home = Path(instance.root_directory)
        self._has_tables = False

    def look(self) -> Health:
        """How it stands now."""
        now = self._clock.now()
        stack = StackState.of_home(self._home)
        processes = [*_of_stack(stack), *self._warm()]
        problems = list(self._problems_of_stack(stack))
        try:
            # Asked until it is so: that reads every migration.
            self._has_tables = self._has_tables or is_current(self._database)
            if not self._has_tables:
                words = "there are no tables of this version yet: `agent-pipelines up` makes them, or `agent-pipelines migrate`"
                return Health(at=now, home=str(self._home), problems=(*problems, words), processes=tuple(processes))
            with self._database.reading() as connection:
                daemons = Daemons(self._clock).alive(connection)
                workers = Workers(self._clock).alive(connection)
                bursts = Bursts(self._clock).live(connection)
                ticks = Ticks(self._clock)
                problems += self._more(connection)
                waiting = [ticks.next_begin(connection, lane=lane) for lane in ("run", "burst")]
            silent = list(self._silent_daemons_of_dagster())
            queued, in_hand = self._runs(DagsterRunStatus.QUEUED), self._runs(*_IN_HAND)
        except (StorageError, SQLAlchemyError) as error:
            words = redactor.text(str(error)).strip()
            return Health(at=now, home=str(self._home), problems=(*problems, words), processes=tuple(processes))
        processes += [
            Process(kind="daemon", host=each.host, pid=each.pid, since_at=each.started_at, words=each.role) for each in daemons
        ]
        for each in workers:
            words = f"{each.name}: {each.running} of {each.concurrency} runs, queues {', '.join(each.queues)}"
            processes.append(Process(kind="worker", host=each.host, pid=each.pid, since_at=each.started_at, words=words))
        leading_since = [each.started_at for each in daemons if each.role == "leader"]
        if not leading_since:
            problems.append("no daemon keeps the time: start `agent-pipelines up`, or `agent-pipelines daemon`")
        elif min(leading_since) < now - _BEGINNING:
            problems += silent
        if _needs_workers(self._instance) and not workers:
            problems.append("no worker lives, so that no run begins: start `agent-pipelines worker`")
        waiting_since = min((at for at in waiting if at is not None and at <= now), default=None)
        if waiting_since is not None and waiting_since < now - _WAITING and in_hand == 0:
            words = "ticks wait since {} and no run is in hand: look below Deployment whether the code locations are loaded"
            problems.append(words.format(isoformat(waiting_since)))
        return Health(
            at=now,
            home=str(self._home),
            problems=tuple(problems),
            processes=tuple(processes),
            runs_queued=queued,
            runs_in_hand=in_hand,
            bursts=len(bursts),
            waiting_since_at=waiting_since,
        )

    def _problems_of_stack(self, stack: StackState | None) -> Iterator[str]:
        if stack is None or not stack.is_here:
            return
        if not stack.is_alive:
            yield "`agent-pipelines up` was killed here; start it again"
            return
        for service in () if stack.is_ending else stack.services:
            if not service.is_alive:
                log = self._home / "process_logs" / "stack.log"
                yield f"the {service.name} ended with exit code {service.exit_code} and is started again; why stands in {log}"

    def _warm(self) -> Sequence[Process]:
        return [
            Process(kind="warm process", host=each.host, pid=each.pid, since_at=None)
            for each in WarmPlace(self._home).all_listening()
        ]

    def _silent_daemons_of_dagster(self) -> Iterator[str]:
        for kind, status in self._instance.get_daemon_statuses().items():
            if status.required and not status.healthy:
                heard = status.last_heartbeat
                since = "never heard of" if heard is None else f"silent since {isoformat(round(heard.timestamp * 1_000_000))}"
                errors = [] if heard is None else (heard.errors or [])
                words = redactor.text(": ".join(["", *(error.message.strip() for error in errors[:1])]))
                yield f"Dagster's daemon {kind} is {since}{words}; restart the leading daemon if it stays so"

    def _runs(self, *statuses: DagsterRunStatus) -> int:
        return self._instance.get_runs_count(RunsFilter(statuses=list(statuses)))


def _of_stack(stack: StackState | None) -> Sequence[Process]:
    if stack is None or not stack.is_alive:
        return []
    words = ", ".join(filter(None, (stack.url, _restarts(stack.restarts))))
    leading = Process(kind="up", host=stack.host, pid=stack.owner_pid, since_at=stack.since_at, words=words)
    services = [
        Process(kind=each.name, host=stack.host, pid=each.pid, since_at=each.since_at, words=_restarts(each.restarts))
        for each in stack.services
        # Daemon and workers say more of themselves than the stack says of them.
        if each.pid is not None and each.is_alive and each.name.partition(" ")[0] not in ("daemon", "worker")
    ]
    return [leading, *services]


def _restarts(number: int) -> str:
    return "" if number == 0 else f"started again {number} times"


def _needs_workers(instance: DagsterInstance) -> bool:
    # By its name: with another launcher nothing of Celery is to be imported.
    return type(instance.run_launcher).__module__.startswith("agent_pipelines.engine.celery.")
