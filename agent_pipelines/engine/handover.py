"""Taking the clock over from Dagster's own schedules and sensors."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from pydantic import JsonValue

from agent_pipelines.engine.tick import Tick
from agent_pipelines.engine.ticks import Ticks
from agent_pipelines.store.database import Database

ASKED_OF_DAGSTER: Mapping[str, JsonValue] = {"launcher": "dagster"}
"""Stands in the inputs of a tick that an evaluated schedule or sensor has claimed: Dagster launches its run."""

_OPEN = 100_000


class RequestedRun(Protocol):
    """A Dagster run, as far as it must be known here."""

    @property
    def run_id(self) -> str: ...


class RequestedRuns(Protocol):
    """What is asked of Dagster; the gateway answers it."""

    def runs_of_tick(self, tick: Tick) -> Sequence[RequestedRun]: ...


def adopt_requested(database: Database, ticks: Ticks, runs: RequestedRuns) -> int:
    """Give ticks that Dagster has launched already the ids of their runs; returns how many.

    For a daemon that begins to keep the time, before it takes ticks: it launches those without a run, and a run that was
    requested by a schedule or a sensor is not known to its tick until it begins to work.
    """
    with database.reading() as connection:
        asked = [tick for tick in ticks.open(connection, limit=_OPEN) if tick.run_id is None and _is_asked(tick)]
    found = {tick.id: requested[-1].run_id for tick in asked if (requested := runs.runs_of_tick(tick))}
    with database.transaction() as connection:
        return sum(ticks.reserve(connection, tick_id, run_id) for tick_id, run_id in found.items())


def _is_asked(tick: Tick) -> bool:
    return all(tick.inputs.get(name) == value for name, value in ASKED_OF_DAGSTER.items())
