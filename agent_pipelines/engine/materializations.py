"""Writing many events of assets into Dagster's event log at once."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from logging import DEBUG
from typing import Any

from dagster import (
    AssetCheckEvaluation,
    AssetKey,
    AssetMaterialization,
    AssetObservation,
    DagsterEventType,
    DagsterInstance,
    EventLogEntry,
)
from dagster._core.events import AssetObservationData, DagsterEvent, StepMaterializationData

from agent_pipelines.core.clock import Microseconds

AT_ONCE = 500
"""Events that are stored together at most."""

AssetEvent = AssetMaterialization | AssetObservation | AssetCheckEvaluation
Occurrence = tuple[Microseconds, AssetEvent]
"""When an event happened, and what."""


@dataclass(frozen=True)
class RunOfEvents:
    """The run, its job and its step that events of assets belong to."""

    run_id: str
    job: str
    step: str


class Materializations:
    """Writes the events of assets of one run, in bulk.

    The storages for PostgreSQL and `BulkSqliteEventLogStorage` take many at once; any other one takes them one by one.
    """

    def __init__(self, instance: DagsterInstance, run: RunOfEvents) -> None:
        self._instance = instance
        self._run = run
        self._known: dict[str, set[str]] = defaultdict(set)

    def add_partitions(self, definition: str, keys: Iterable[str]) -> None:
        """Make sure that a dynamic partitions definition has these keys."""
        new = sorted(set(keys) - self._known[definition])
        for start in range(0, len(new), AT_ONCE):
            some = new[start : start + AT_ONCE]
            self._instance.add_dynamic_partitions(definition, some)
            self._known[definition].update(some)

    def write(self, occurrences: Sequence[Occurrence]) -> None:
        """Store events. Of several evaluations of one check only the last one is kept: a run has one row for each."""
        for batch in _batches(occurrences):
            self._instance.event_log_storage.store_event_batch([self._entry(at, event) for at, event in batch])
        for at, event in _last_evaluations(occurrences):
            self._instance.event_log_storage.store_event(self._entry(at, event))

    def _entry(self, at: Microseconds, event: AssetEvent) -> EventLogEntry:
        kind, data, message = _told(event)
        told = DagsterEvent(
            event_type_value=kind.value,
            job_name=self._run.job,
            step_key=self._run.step,
            event_specific_data=data,
            message=message,
        )
        return EventLogEntry(
            error_info=None,
            level=DEBUG,
            user_message=message,
            run_id=self._run.run_id,
            timestamp=at / 1_000_000,
            step_key=self._run.step,
            job_name=self._run.job,
            dagster_event=told,
        )


def _told(event: AssetEvent) -> tuple[DagsterEventType, Any, str]:
    match event:
        case AssetMaterialization():
            return DagsterEventType.ASSET_MATERIALIZATION, StepMaterializationData(event), event.description or ""
        case AssetObservation():
            return DagsterEventType.ASSET_OBSERVATION, AssetObservationData(event), event.description or ""
        case AssetCheckEvaluation():
            return DagsterEventType.ASSET_CHECK_EVALUATION, event, event.description or ""


def _batches(occurrences: Sequence[Occurrence]) -> Iterable[Sequence[Occurrence]]:
    # One kind and one asset a batch: Dagster's storage notes only the last event of a batch with the asset.
    groups: Mapping[tuple[type[AssetEvent], AssetKey], list[Occurrence]] = defaultdict(list)
    for occurrence in occurrences:
        if not isinstance(occurrence[1], AssetCheckEvaluation):
            groups[type(occurrence[1]), occurrence[1].asset_key].append(occurrence)
    for group in groups.values():
        for start in range(0, len(group), AT_ONCE):
            yield group[start : start + AT_ONCE]


def _last_evaluations(occurrences: Sequence[Occurrence]) -> Iterable[Occurrence]:
    last = {
        (event.asset_key, event.check_name): (at, event) for at, event in occurrences if isinstance(event, AssetCheckEvaluation)
    }
    return last.values()
