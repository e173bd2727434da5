"""From the sensors to our daemon and back: nothing is lost, and nothing is launched twice."""

from collections.abc import Iterator

import dagster as dg
import pytest
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin, RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus, InstigatorType, SensorInstigatorData

from agent_pipelines.components.watch.cursor import SensorCursor, sensor_name
from agent_pipelines.core.clock import ManualClock
from agent_pipelines.core.execution import Verdict
from agent_pipelines.core.ids import new_id
from agent_pipelines.hub import Hub
from agent_pipelines.store.database import Database
from agent_pipelines_tests.components.triggering import BoardLoop, Deployment, SensorLoop, spec

PUSHED = {"kind": "event", "event": "commit.pushed", "variables": {"commit": "{{ event.commit }}"}}
AFTER = {"kind": "after", "task": "upstream"}


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp(str(tmp_path_factory.mktemp("home"))) as instance:
        yield instance


@pytest.fixture
def deployment(database: Database, clock: ManualClock, instance: dg.DagsterInstance) -> Deployment:
    return Deployment(Hub(database, clock), instance, clock)


class Change:
    """A deployment in which now Dagster's sensor and now our daemon looks at one task."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.sensor = SensorLoop(deployment, spec(triggers=[PUSHED, AFTER]), switched_on=deployment.clock.time / 1_000_000)
        self.board: BoardLoop | None = None

    def put(self, commit: str, *, after: float = 1) -> None:
        self.deployment.clock.time += round(after * 1_000_000)
        self.deployment.put("commit.pushed", {"commit": commit})

    def by_sensor(self) -> list[object]:
        """Dagster evaluates, and stores what the sensor remembers; what is launched."""
        launches = self.sensor.evaluate(after=0)
        name = sensor_name(self.sensor.task.key)
        origin = RemoteRepositoryOrigin(GrpcServerCodeLocationOrigin("127.0.0.1", 1, location_name="x"), "__repository__")
        data = SensorInstigatorData(cursor=self.sensor.cursor, last_sensor_start_timestamp=self.sensor.switched_on)
        state = InstigatorState(origin.get_instigator_origin(name), InstigatorType.SENSOR, InstigatorStatus.RUNNING, data)
        instance = self.deployment.instance
        stored = instance.get_instigator_state(state.instigator_origin_id, state.selector_id)
        (instance.update_instigator_state if stored else instance.add_instigator_state)(state)
        return [launch.variables.get("commit") for launch in launches]

    def start_daemon(self) -> None:
        self.board = BoardLoop(self.deployment, self.sensor.task)
        self.beat()

    def beat(self) -> None:
        with self.deployment.hub.database.transaction() as connection:
            self.deployment.hub.daemons.beat(connection, "daemon", "leader")

    def by_daemon(self) -> list[object]:
        """Our daemon looks and launches."""
        assert self.board is not None
        self.beat()
        return [launch.variables.get("commit") for launch in self.board.evaluate(after=0)]

    def stop_daemon(self) -> None:
        self.board = None
        with self.deployment.hub.database.transaction() as connection:
            self.deployment.hub.daemons.stop(connection, "daemon")


@pytest.fixture
def change(deployment: Deployment) -> Change:
    made = Change(deployment)
    assert made.by_sensor() == []
    return made


def test_a_daemon_goes_on_where_the_sensor_was(change: Change) -> None:
    change.put("c1")
    assert change.by_sensor() == ["c1"]
    change.put("while nobody looked", after=600)
    change.deployment.clock.time += 600_000_000
    change.start_daemon()
    change.put("c3")
    assert change.by_daemon() == ["while nobody looked", "c3"]
    assert change.by_daemon() == []
    assert len(change.deployment.ticks()) == 3


def test_a_sensor_only_tells_what_waits_while_a_daemon_looks(change: Change) -> None:
    change.start_daemon()
    assert change.by_daemon() == []
    change.put("c1")
    assert change.by_sensor() == []
    assert change.sensor.why == "watched each second by the agent-pipelines daemon: event, after"
    assert change.by_daemon() == ["c1"]
    assert change.by_sensor() == []
    assert change.sensor.why == "watched each second by the agent-pipelines daemon: event, after; 1 ticks wait for their runs"
    assert SensorCursor.read(change.sensor.cursor).triggers == {}  # the positions are the daemon's now
    assert len(change.deployment.ticks()) == 1


def test_a_sensor_goes_on_where_the_daemon_was(change: Change) -> None:
    change.start_daemon()
    change.put("c1")
    assert change.by_daemon() == ["c1"]
    change.by_sensor()
    change.put("c2", after=3_600)
    assert change.by_daemon() == ["c2"]
    change.by_sensor()
    change.stop_daemon()
    change.put("while nobody looked")
    change.deployment.clock.time += 600_000_000
    launched = [tick for tick in change.deployment.ticks() if tick.run_id is not None]
    assert len(launched) == 2
    for tick in launched:  # the daemon has launched their runs, which are in Dagster's queue
        assert tick.run_id is not None
        change.deployment.instance.add_run(dg.DagsterRun(job_name="app__report", run_id=tick.run_id))
    assert change.by_sensor() == ["while nobody looked"]
    assert change.by_sensor() == []
    assert len(change.deployment.ticks()) == 3


def test_forth_and_back_and_forth(change: Change) -> None:
    found: list[object] = []
    for number in range(3):
        change.put(f"sensor {number}")
        found += change.by_sensor()
        change.put(f"gap {number}")
        change.start_daemon()
        found += change.by_daemon()
        change.put(f"daemon {number}", after=300)
        found += change.by_daemon()
        change.by_sensor()
        for tick in change.deployment.ticks():
            if tick.run_id is not None and not change.deployment.instance.has_run(tick.run_id):
                change.deployment.instance.add_run(dg.DagsterRun(job_name="app__report", run_id=tick.run_id))
        change.stop_daemon()
        change.put(f"gap again {number}")
    found += change.by_sensor()
    names = ("sensor {}", "gap {}", "daemon {}", "gap again {}")
    assert found == [name.format(number) for number in range(3) for name in names]
    assert len(change.deployment.ticks()) == len(found)


def test_a_sensor_launches_what_a_daemon_has_claimed_and_not_launched(change: Change) -> None:
    """It was killed between the claim and the run, at one boundary or the other."""
    change.start_daemon()
    change.put("claimed")
    assert change.board is not None
    assert change.board.look() == 1
    change.put("reserved")
    assert change.board.look() == 1
    with change.deployment.hub.database.transaction() as connection:
        assert change.deployment.hub.ticks.reserve(connection, change.deployment.ticks()[1].id, new_id())
    change.stop_daemon()
    assert change.by_sensor() == ["claimed", "reserved"]
    assert change.by_sensor() == []


def test_what_came_while_the_sensor_was_off_is_not_caught_up_by_anybody(change: Change) -> None:
    change.start_daemon()
    change.by_daemon()
    change.by_sensor()
    change.stop_daemon()
    change.put("while off")
    change.deployment.clock.time += 1_000_000
    change.sensor.switched_on = change.deployment.clock.time / 1_000_000
    change.put("on again")
    assert change.by_sensor() == ["on again"]
    change.start_daemon()
    assert change.by_daemon() == []


def test_a_follower_goes_on_in_both_directions(deployment: Deployment) -> None:
    change = Change(deployment)
    change.by_sensor()
    upstream = spec("upstream", triggers=[{"kind": "interval", "every": "1h"}])
    first = deployment.launch(upstream, "2026-01-02T06:00Z")
    assert change.by_sensor() == []
    assert change.sensor.why == "after: app/upstream of 2026-01-02T06:00:00Z: upstream has not begun"
    change.start_daemon()
    deployment.run(upstream, first)
    assert len(change.by_daemon()) == 1
    second = deployment.launch(upstream, "2026-01-02T07:00Z")
    change.beat()
    assert change.by_sensor() == []
    assert "after: app/upstream of 2026-01-02T07:00:00Z: upstream has not begun" in (change.sensor.why or "")
    deployment.decide(second, Verdict.SKIPPED, "nothing new")
    change.stop_daemon()
    for tick in deployment.ticks():
        assert tick.run_id is not None
        deployment.instance.add_run(dg.DagsterRun(job_name="app__report", run_id=tick.run_id))
    assert change.by_sensor() == []
    assert [tick.verdict for tick in deployment.ticks()] == [None, Verdict.SKIPPED]
