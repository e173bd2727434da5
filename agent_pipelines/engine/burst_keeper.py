"""Keeping enough bursts alive: as few as do the work, launched before it is due."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from dagster import TextMetadataValue

from agent_pipelines.core.clock import Clock, Microseconds
from agent_pipelines.core.errors import AgentPipelinesError
from agent_pipelines.core.ids import new_id
from agent_pipelines.core.secrets import redactor
from agent_pipelines.engine.burst_settings import BURST, LANE_SENSOR, BurstSettings, burst_job_name
from agent_pipelines.engine.bursts import Burst, Bursts
from agent_pipelines.engine.gateway import DagsterGateway
from agent_pipelines.engine.launch import tag
from agent_pipelines.engine.ticks import Ticks
from agent_pipelines.engine.triggers import Triggers
from agent_pipelines.store.database import Connection, Database

_log = logging.getLogger("agent_pipelines.bursts")

_SILENT = 10_000_000  # microseconds without a beat after which others may have what a burst took
_START = 120_000_000  # microseconds that the run of a burst may take to begin
_INHERITED = 15_000_000  # the same for one that another daemon launched: it may have died on the way
_SWEEP = 10_000_000  # microseconds between two looks for ticks that no burst has
_PAUSE = 5_000_000  # microseconds between two launches after one that failed


@dataclass(frozen=True)
class Lane:
    """The bursts of one workspace, as a project declares them and as they are switched in Dagster."""

    workspace: str
    settings: BurstSettings
    is_on: bool

    @classmethod
    def of_sensor(cls, name: str, metadata: Mapping[str, object], *, is_on: bool) -> "Lane | None":
        """Read a lane from its sensor; None if the sensor is another one."""
        settings = metadata.get(BURST)
        if not name.startswith(LANE_SENSOR) or not isinstance(settings, TextMetadataValue) or settings.text is None:
            return None
        return cls(name.removeprefix(LANE_SENSOR), BurstSettings.model_validate_json(settings.text), is_on)


class BurstKeeper:
    """Launches bursts ahead of what is due, and takes the ticks from those that are silent.

    A burst that is only slow may be taken for dead: what it still does with its ticks is fenced by their admission.
    """

    def __init__(
        self,
        database: Database,
        triggers: Triggers,
        ticks: Ticks,
        bursts: Bursts,
        clock: Clock,
        gateway: Callable[[], DagsterGateway],
    ) -> None:
        self._database = database
        self._triggers = triggers
        self._ticks = ticks
        self._bursts = bursts
        self._clock = clock
        self._gateway = gateway
        self._failed_at: Microseconds | None = None
        self._swept_at: Microseconds = 0
        self._launched: set[str] = set()

    def keep(self, lanes: Sequence[Lane]) -> int:
        """Bring the bursts of all workspaces to the number that is needed; returns how many were launched."""
        now = self._clock.now()
        with self._database.reading() as connection:
            live = self._bursts.live(connection)
            backlog = {lane.workspace: self._backlog(connection, lane, now) for lane in lanes}
        self._launched &= {burst.run_id for burst in live}
        alive = [burst for burst in live if not self._is_lost(burst, now)]
        self._sweep(now)
        return sum(self._fill(lane, alive, backlog[lane.workspace], now) for lane in lanes if lane.is_on)

    def _sweep(self, now: Microseconds) -> None:
        """Free what a burst had taken after it was closed, as one that was suspended may have."""
        if abs(now - self._swept_at) < _SWEEP:
            return
        self._swept_at = now
        with self._database.transaction() as connection:
            live = [burst.run_id for burst in self._bursts.live(connection)]
            count = self._ticks.give_back_strays(connection, live)
        if count:
            _log.warning("%d ticks of bursts that are over are free again", count)

    def _backlog(self, connection: Connection, lane: Lane, now: Microseconds) -> int:
        """How many ticks are to begin before a burst that is launched now would be there, those included that will be claimed."""
        until = now + round(lane.settings.ahead * 1_000_000)
        waiting = self._ticks.backlog(connection, workspace=lane.workspace, until=until)
        return waiting + self._triggers.count_due(connection, "burst", workspace=lane.workspace, until=until)

    def _fill(self, lane: Lane, alive: Sequence[Burst], backlog: int, now: Microseconds) -> int:
        settings = lane.settings
        last_taken = now - round((settings.age - settings.ahead) * 1_000_000)
        own = [burst for burst in alive if burst.workspace == lane.workspace and burst.takes]
        # One that will soon take no more has its successor in time.
        lasting = [burst for burst in own if burst.opened_at is None or burst.opened_at > last_taken]
        wanted = min(settings.runs, -(-backlog // (2 * settings.share)))
        missing = wanted - len(lasting)
        is_pausing = self._failed_at is not None and abs(now - self._failed_at) < _PAUSE
        if missing <= 0 or is_pausing:
            return 0
        return sum(self._launch(lane.workspace, now) for _ in range(missing))

    def _launch(self, workspace: str, now: Microseconds) -> int:
        run_id = new_id()
        with self._database.transaction() as connection:
            self._bursts.launch(connection, run_id, workspace)
        self._launched.add(run_id)
        try:
            self._gateway().start(burst_job_name(workspace), run_id, {tag("workspace"): workspace})
        except AgentPipelinesError as error:
            self._failed_at = now
            _log.warning("no burst for workspace %s: %s", workspace, redactor.text(str(error)))
            with self._database.transaction() as connection:
                self._bursts.close(connection, run_id)
            return 0
        return 1

    def _is_lost(self, burst: Burst, now: Microseconds) -> bool:
        if burst.opened_at is None:
            return self._will_not_begin(burst, now)
        # A beat of the future is one of before the clock was set back.
        return abs(now - (burst.beat_at or burst.opened_at)) >= _SILENT and self._lose(burst)

    def _will_not_begin(self, burst: Burst, now: Microseconds) -> bool:
        is_own = burst.run_id in self._launched
        if not is_own and self._gateway().withdraw(burst.run_id):
            _log.warning("burst %s was not started by the daemon that noted it, and is withdrawn", burst.run_id)
        if now - burst.launched_at >= _START or self._is_over(burst):
            return self._lose(burst)
        return not is_own and now - burst.launched_at >= _INHERITED

    def _lose(self, burst: Burst) -> bool:
        is_over = self._is_over(burst)
        with self._database.transaction() as connection:
            given_back = self._ticks.give_back(connection, burst.run_id)
            if is_over:
                self._bursts.close(connection, burst.run_id)
        if given_back or is_over:
            state = "is over" if is_over else "is silent"
            _log.warning("burst %s %s: %d ticks that it had not begun are free again", burst.run_id, state, given_back)
        return True

    def _is_over(self, burst: Burst) -> bool:
        return self._gateway().is_over(burst.run_id)
