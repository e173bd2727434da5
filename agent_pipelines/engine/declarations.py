"""The triggers that the projects of a workspace declare, kept in step with our record."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from dagster import DagsterInstance
from dagster._core.remote_representation.external import RemoteRepository, RemoteSchedule, RemoteSensor
from dagster._core.workspace.context import BaseWorkspaceRequestContext

from agent_pipelines.core.task import TaskKey
from agent_pipelines.core.trigger import Trigger, trigger_name
from agent_pipelines.engine.burst_keeper import Lane
from agent_pipelines.engine.declaration import DeclaredTask, DeclaredTriggers
from agent_pipelines.engine.triggers import Triggers
from agent_pipelines.store.database import Connection, Database

ACTOR = "daemon"
_log = logging.getLogger("agent_pipelines.declarations")
_SHARE = 20  # of the time between two looks at most a twentieth is spent on looking

TriggerKey = tuple[TaskKey, str]


@dataclass(frozen=True)
class Declared:
    """A trigger as a project declares it, and the schedule or sensor that switches it."""

    task: DeclaredTask
    trigger: Trigger
    is_on: bool
    instigator: RemoteSchedule | RemoteSensor


class Declarations:
    """Notes what is declared and what is switched on, with each edit and each switch, in the history of the triggers.

    What cannot be loaded just now stays as it was: a broken edit of one project stops neither the others nor its own
    triggers.
    """

    def __init__(self, instance: DagsterInstance, database: Database, triggers: Triggers) -> None:
        self._instance = instance
        self._database = database
        self._triggers = triggers
        self._known: dict[TriggerKey, Declared] = {}
        self._lanes: dict[str, Lane] = {}
        self._noted: dict[TriggerKey, object] = {}
        self._unreadable: set[str] = set()
        self._removed_unknown = False
        self._next_look = 0.0

    @property
    def known(self) -> Mapping[TriggerKey, Declared]:
        """What is declared, as it was last seen."""
        return self._known

    @property
    def lanes(self) -> Sequence[Lane]:
        """The bursts of the workspaces, as they were last seen."""
        return list(self._lanes.values())

    def look(self, workspace: BaseWorkspaceRequestContext) -> int:
        """Compare the workspace with what is noted; returns the number of changes."""
        started = time.monotonic()
        if started < self._next_look:
            return 0
        states = {state.selector_id: state for state in self._instance.all_instigator_state()}
        found: dict[TriggerKey, Declared] = {}
        unreadable: dict[str, str] = {}
        for repository in _repositories(workspace):
            for each in (*repository.get_schedules(), *repository.get_sensors()):
                metadata = _metadata(each)
                is_on = each.get_current_instigator_state(states.get(each.selector_id)).is_running
                try:
                    lane = Lane.of_sensor(each.name, metadata, is_on=is_on)
                    declared = DeclaredTriggers.from_metadata(metadata)
                except ValueError as error:
                    unreadable[each.name] = str(error)
                    continue
                if lane is not None:
                    self._lanes[lane.workspace] = lane
                if declared is None:
                    continue
                for trigger in declared.triggers:
                    found[declared.task.key, trigger_name(trigger)] = Declared(declared.task, trigger, is_on, each)
        for name in unreadable.keys() - self._unreadable:
            _log.error("%s stays as it was; is its project of another version than this daemon? %s", name, unreadable[name])
        self._unreadable = set(unreadable)
        is_loaded = all(entry.code_location is not None for entry in workspace.get_code_location_entries().values())
        is_complete = is_loaded and not unreadable
        changes = self._note(found, is_complete=is_complete)
        self._known = found if is_complete else {**self._known, **found}
        self._next_look = started + _SHARE * (time.monotonic() - started)
        return changes

    def _note(self, found: Mapping[TriggerKey, Declared], *, is_complete: bool) -> int:
        as_seen = {key: (each.trigger, each.is_on, each.task) for key, each in found.items()}
        changed = [key for key, seen in as_seen.items() if self._noted.get(key) != seen]
        gone = self._gone(found) if is_complete else []
        if not changed and not gone:
            self._removed_unknown = self._removed_unknown or is_complete
            return 0
        count = 0
        with self._database.transaction() as connection:
            for key in changed:
                count += self._put(connection, found[key])
            for task, name in gone:
                count += self._triggers.remove(connection, task, name, actor=ACTOR, reason="not declared any more")
        self._noted.update({key: as_seen[key] for key in changed})
        for key in gone:
            self._noted.pop(key, None)
        self._removed_unknown = self._removed_unknown or is_complete
        if count:
            _log.info("%d triggers changed, %d of them gone", count, len(gone))
        return count

    def _put(self, connection: Connection, declared: Declared) -> bool:
        known = self._triggers.get(connection, declared.task.key, trigger_name(declared.trigger), lock=True)
        if known is not None and known.source == "registered" and known.state != "removed":
            _log.warning(
                "%s/%s is registered at run time, too: trigger %s stays as it was registered; remove one of the two tasks",
                *declared.task.key[1:],
                trigger_name(declared.trigger),
            )
            return False
        # A pause stays until somebody ends it, whatever the switch in Dagster's pages says.
        is_paused = known is not None and known.state == "paused" and declared.is_on
        return self._triggers.put(
            connection,
            declared.task.key,
            declared.trigger,
            source="declared",
            state="paused" if is_paused else "on" if declared.is_on else "off",
            actor=ACTOR,
            lane=declared.task.lane,
            priority=declared.task.priority,
            reason=known.reason if is_paused and known is not None else None,
        )

    def _gone(self, found: Mapping[TriggerKey, Declared]) -> list[TriggerKey]:
        gone = [key for key in self._noted if key not in found]
        if self._removed_unknown:
            return gone
        # After a start it is not known what was declared before.
        with self._database.reading() as connection:
            stored = self._triggers.list(connection, source="declared")
        return [*gone, *((each.task_key, each.trigger) for each in stored if (each.task_key, each.trigger) not in found)]


def _repositories(workspace: BaseWorkspaceRequestContext) -> Iterator[RemoteRepository]:
    for entry in workspace.get_code_location_entries().values():
        if entry.code_location is not None:
            yield from entry.code_location.get_repositories().values()


def _metadata(instigator: RemoteSchedule | RemoteSensor) -> Mapping[str, object]:
    if isinstance(instigator, RemoteSchedule):
        return instigator.metadata
    metadata = instigator.metadata
    return {} if metadata is None else metadata.standard_metadata or {}
