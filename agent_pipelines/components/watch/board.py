"""Looking at the triggers of all tasks that are not of time."""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from dagster import DagsterInstance

from agent_pipelines.components.claim import claim, claim_repair, note_repaired
from agent_pipelines.components.watch.after import watch_after
from agent_pipelines.components.watch.arrivals import Arrivals
from agent_pipelines.components.watch.asset_update import watch_asset
from agent_pipelines.components.watch.cursor import SensorCursor, TriggerCursor, sensor_name
from agent_pipelines.components.watch.event import all_seen, due_by, matches, seen_since, watch_event
from agent_pipelines.components.watch.materializations import Materializations
from agent_pipelines.components.watch.sight import Due, Look, Repair, Sight, task_at
from agent_pipelines.components.watch.tail import Tail
from agent_pipelines.components.watch.upstreams import Upstreams
from agent_pipelines.core.clock import Microseconds
from agent_pipelines.core.task import TaskKey
from agent_pipelines.core.trigger import After, AssetUpdate, Event
from agent_pipelines.engine.inbox import InboxEvent
from agent_pipelines.engine.switches import sensor_notes
from agent_pipelines.engine.tick import REPAIR
from agent_pipelines.engine.triggers import Move, StoredTrigger
from agent_pipelines.hub import Hub
from agent_pipelines.store.database import Connection

KINDS = ("event", "after", "asset")
"""The triggers that are looked at here; those of time are the clock's."""

_CLAIMS = 1_000  # ticks that one look may claim
_LOOKS = 500  # triggers that one look may look at for themselves
_WRITTEN = 600 * 1_000_000  # how often positions are written of triggers that have seen something and claimed nothing
_AT_ONCE = 1_000  # positions that one look writes of these
_MANY = 100  # new triggers at once of which many may have nothing to catch up with
_NEXT_LOOK = 0


@dataclass
class _Watched:
    """A trigger that is on, and how far it has looked."""

    row: StoredTrigger
    position: TriggerCursor
    is_written: bool
    """Whether the table has this position, or one that is a little older."""
    is_caught_up: bool = False
    """Whether it has looked for itself at all that happened before it was known here."""


@dataclass(frozen=True)
class _Claim:
    """A tick to be claimed for a trigger."""

    trigger: int
    what: Due | Repair

    def key(self, row: StoredTrigger) -> tuple[TaskKey, str, str]:
        """Its unique key. All claim in this order, so that of two who claim the same ticks none waits for the other in turn."""
        if isinstance(self.what, Repair):
            return (self.what.tick.task_key, REPAIR, self.what.occurrence)
        return (row.task_key, row.trigger, self.what.occurrence)


class TriggerWatch:
    """Claims ticks for events, materializations and the ticks of other tasks, for all triggers in the table.

    A trigger that is new here first looks for itself, by the same functions that its sensor uses, from where somebody has
    looked last. From then on only what has changed leads to a look: new events, new ticks of tasks that are followed, what
    becomes of these, new materializations, and the instants that followers wait for. Where nothing changes, a look is a few
    queries, however many triggers there are.

    One thread looks. If several processes do, each occurrence still has one tick.
    """

    def __init__(self, hub: Hub, instance: DagsterInstance) -> None:
        self._hub = hub
        self._instance = instance
        self._watched: dict[int, _Watched] = {}  # triggers by their `seq`, as in all that follows
        self._by_event: dict[tuple[str, str], set[int]] = {}
        self._by_upstream: dict[TaskKey, set[int]] = {}
        self._by_asset: dict[str, set[int]] = {}
        self._changes: Tail | None = None
        self._changed: list[StoredTrigger] = []
        self._arrivals = Arrivals(hub.inbox)
        self._upstreams = Upstreams(hub.ticks, hub.executions)
        self._materializations = Materializations(instance)
        self._awake: dict[int, Microseconds] = {}  # those that look for themselves, and when
        self._matched: deque[tuple[int, InboxEvent]] = deque()  # what events have made due and nobody has claimed yet
        self._moved: set[int] = set()  # those whose position is further than the one that is written
        self._written_at = hub.clock.now()

    def look(self) -> int:
        """Claim what is due; returns how many ticks that were."""
        now = self._hub.clock.now()
        with self._hub.database.reading() as connection:
            self._read_changes(connection, now)
            # Also when the first of them is about to be learned: what comes from now on is read here.
            if self._by_event or self._changed:
                self._match(self._arrivals.read(connection, now, self._by_event))
            if self._by_upstream or self._changed:
                self._wake(self._upstreams.read(connection, now, self._by_upstream))
            newest = self._hub.inbox.newest(connection) if len(self._changed) >= _MANY else None
        if self._by_asset:
            for asset in self._materializations.read(now, self._by_asset):
                self._wake(self._by_asset.get(asset, ()))
        self._learn(newest)
        sights = self._look_for_themselves(now)
        room = max(_CLAIMS - sum(len(sight.due) for sight in sights.values()), 0)
        matched = list(islice(self._matched, room))
        claimed = self._write(now, sights, matched)
        for _ in matched:
            self._matched.popleft()
        for seq, sight in sights.items():
            self._seen(seq, sight)
        return claimed

    def _read_changes(self, connection: Connection, now: Microseconds) -> None:
        triggers = self._hub.triggers
        if self._changes is None:
            self._changed = list(triggers.list(connection, kinds=KINDS, on_only=True))
            self._changes = Tail(now, triggers.history.last_seq(connection))
            self._changes.note(triggers.history.changes(connection, after=self._changes.floor(now)), now)
            return
        entries = triggers.history.changes(connection, after=self._changes.floor(now))
        found = [
            triggers.get(connection, *name) for name in sorted({(task, name) for _, task, name in self._changes.new(entries)})
        ]
        self._changed += [row for row in found if row is not None]
        self._changes.note(entries, now)

    def _learn(self, newest: Mapping[tuple[str, str], Microseconds] | None) -> None:
        """Take note of what has changed. `newest` is when the last event of each type came, if anybody has asked."""
        new: list[_Watched] = []
        for row in self._changed:
            known = self._watched.get(row.seq)
            if known is not None and _goes_on(known.row, row):
                known.row = row
                continue
            self._forget(row.seq)
            if row.state == "on" and row.definition.kind in KINDS:
                new.append(_Watched(row, TriggerCursor.of(row), is_written=bool(row.marks) or row.definition.kind == "event"))
        if any(watched.row.source == "declared" for watched in new):
            notes = sensor_notes(self._instance)
            for watched in new:
                self._take_over(watched, notes)
        for watched in new:
            self._watched[watched.row.seq] = watched
            groups, key = self._group(watched.row)
            groups.setdefault(key, set()).add(watched.row.seq)
            if newest is not None and groups is self._by_event and newest.get(key, 0) < seen_since(watched.position):
                watched.is_caught_up = watched.is_written
            if not watched.is_caught_up:
                self._awake[watched.row.seq] = _NEXT_LOOK
        self._changed.clear()

    def _take_over(self, watched: _Watched, notes: Mapping[str, tuple[str | None, float | None]]) -> None:
        """Go on where the sensor of a declared task is, if that was the last to look."""
        row = watched.row
        cursor, started = notes.get(sensor_name(row.task_key), (None, None))
        known = SensorCursor.read(cursor).switched(started, self._hub.clock.now()).triggers.get(row.trigger)
        if row.source == "declared" and known is not None and known.revision == row.revision:
            watched.position, watched.is_written = known, False

    def _forget(self, seq: int) -> None:
        watched = self._watched.pop(seq, None)
        if watched is None:
            return
        groups, key = self._group(watched.row)
        groups[key].discard(seq)
        if not groups[key]:
            del groups[key]
        if not self._by_event:
            self._arrivals = Arrivals(self._hub.inbox)
        if not self._by_upstream:
            self._upstreams = Upstreams(self._hub.ticks, self._hub.executions)
        self._upstreams.wait(seq, frozenset())
        self._awake.pop(seq, None)
        self._moved.discard(seq)
        self._matched = deque((by, event) for by, event in self._matched if by != seq)

    def _group(self, row: StoredTrigger) -> tuple[dict[Any, set[int]], Any]:
        """The triggers that look at the same, by what they look at."""
        match row.definition:
            case Event() as trigger:
                return self._by_event, (row.workspace, trigger.event)
            case After() as trigger:
                return self._by_upstream, task_at(trigger.task, row.task_key)
            case AssetUpdate() as trigger:
                return self._by_asset, trigger.asset
            case _:
                raise AssertionError(f"{row.path}: {row.trigger} is a trigger of time")

    def _match(self, events: Sequence[InboxEvent]) -> None:
        for type in {(event.workspace, event.type) for event in events}:
            self._moved |= self._by_event[type]
        for event in events:
            for seq in self._by_event[event.workspace, event.type]:
                watched = self._watched[seq]
                trigger = watched.row.definition
                assert isinstance(trigger, Event)
                if not watched.is_caught_up:
                    continue  # it has yet to look for itself, and sees this event then
                if event.received_at >= seen_since(watched.position) and matches(trigger.match, event.payload):
                    self._matched.append((seq, event))

    def _wake(self, seqs: Iterable[int]) -> None:
        self._awake.update(dict.fromkeys(seqs, _NEXT_LOOK))

    def _look_for_themselves(self, now: Microseconds) -> dict[int, Sight]:
        sights: dict[int, Sight] = {}
        limit = _CLAIMS
        for seq in list(islice((seq for seq, at in self._awake.items() if at <= now), _LOOKS)):
            watched = self._watched[seq]
            sights[seq] = _watch(Look(self._hub, self._instance, watched.row.task_key, now, limit), watched)
            limit -= len(sights[seq].due)
            if limit <= 0:
                break
        return sights

    def _write(self, now: Microseconds, sights: Mapping[int, Sight], matched: Sequence[tuple[int, InboxEvent]]) -> int:
        claims = [_Claim(seq, what) for seq, sight in sights.items() for what in (*sight.due, *sight.repairs)]
        for seq, event in matched:
            trigger = self._watched[seq].row.definition
            assert isinstance(trigger, Event)
            claims.append(_Claim(seq, due_by(trigger, event)))
        repaired = [each for sight in sights.values() for each in sight.repaired]
        to_write = self._to_write(now, sights, claims)
        if not to_write and not repaired:
            return 0
        unclaimed = next(islice(self._matched, len(matched), None), None)
        before = now if unclaimed is None else unclaimed[1].received_at
        positions = {seq: self._position(seq, sights.get(seq), before) for seq in to_write}
        with self._hub.database.transaction() as connection:
            rows = {row.seq: row for row in self._hub.triggers.by_seqs(connection, sorted(positions), lock=True)}
            # One that is edited or switched off since it was read claims nothing; its change is about to be read, too.
            rows = {seq: row for seq, row in rows.items() if _goes_on(self._watched[seq].row, row)}
            valid = sorted((each for each in claims if each.trigger in rows), key=lambda each: each.key(rows[each.trigger]))
            claimed = sum(self._claim(connection, rows[each.trigger], each.what) for each in valid)
            for each in repaired:
                note_repaired(self._hub, connection, each)
            self._hub.triggers.advance(
                connection, [Move(row, max(now, row.looked_until), None, positions[seq].as_marks()) for seq, row in rows.items()]
            )
        for seq, position in positions.items():
            self._watched[seq].position, self._watched[seq].is_written = position, True
            self._moved.discard(seq)
        return claimed

    def _to_write(self, now: Microseconds, sights: Mapping[int, Sight], claims: Sequence[_Claim]) -> set[int]:
        """The triggers whose positions are to be written now.

        Those of which the table has none are written at once; that of an event trigger is then when it was switched on.
        """
        found = {each.trigger for each in claims} | {seq for seq in sights if not self._watched[seq].is_written}
        if now - self._written_at < _WRITTEN:
            return found
        some = set(islice(self._moved, _AT_ONCE))
        if len(some) == len(self._moved):
            self._written_at = now
        return found | some

    def _position(self, seq: int, sight: Sight | None, before: Microseconds) -> TriggerCursor:
        watched = self._watched[seq]
        if sight is not None:
            return sight.cursor
        if watched.is_caught_up and watched.row.definition.kind == "event":
            return all_seen(watched.position, before)
        return watched.position

    def _claim(self, connection: Connection, row: StoredTrigger, what: Due | Repair) -> bool:
        if isinstance(what, Repair):
            asker = {"requested_by": f"{row.path}:{row.trigger}"}
            return claim_repair(self._hub, connection, what, inputs=asker, lane=what.tick.lane)
        return claim(
            self._hub,
            connection,
            row.task_key,
            row.definition,
            what,
            lane=row.lane,
            priority=row.priority,
            spec_hash=row.spec_hash,
        )

    def _seen(self, seq: int, sight: Sight) -> None:
        watched = self._watched[seq]
        if watched.position != sight.cursor:
            watched.position = sight.cursor
            self._moved.add(seq)
        watched.is_caught_up |= not sight.more
        del self._awake[seq]  # and to the end of the line, if it comes again
        if sight.more:
            self._awake[seq] = _NEXT_LOOK
        elif sight.waiting:
            self._awake[seq] = min(each.until for each in sight.waiting)
        self._upstreams.wait(seq, frozenset().union(*(each.on for each in sight.waiting)))


def _goes_on(known: StoredTrigger, row: StoredTrigger) -> bool:
    """Whether a trigger is still on, and due at the same things as before."""
    return row.state == "on" and (row.revision, row.since) == (known.revision, known.since)


def _watch(look: Look, watched: _Watched) -> Sight:
    match watched.row.definition:
        case Event() as trigger:
            return watch_event(look, trigger, watched.position)
        case After() as trigger:
            return watch_after(look, trigger, watched.position)
        case AssetUpdate() as trigger:
            return watch_asset(look, trigger, watched.position)
        case _:
            raise AssertionError(f"{watched.row.path}: {watched.row.trigger} is a trigger of time")
