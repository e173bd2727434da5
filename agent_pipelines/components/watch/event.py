"""Watching the inbox."""

from collections.abc import Iterator, Mapping

from pydantic import JsonValue

from agent_pipelines.components.watch.cursor import TriggerCursor
from agent_pipelines.components.watch.sight import Due, Look, Sight, marked
from agent_pipelines.core.clock import Microseconds
from agent_pipelines.core.invocation import Origin
from agent_pipelines.core.trigger import Event, trigger_name
from agent_pipelines.engine.inbox import InboxEvent

# An event becomes visible some time after the instant that it carries: when its transaction is over, by another host's clock.
_OVERLAP = 120 * 1_000_000
_PAGE = 500
_PAGES = 20


def watch_event(look: Look, trigger: Event, cursor: TriggerCursor) -> Sight:
    """Due for each event of the type that matches. Those that do not match are read again only while they are recent."""
    since = seen_since(cursor)
    due: list[Due] = []
    scanned = since
    unread_from = look.now
    for event in _events(look, trigger, since):
        if event is None or len(due) >= look.limit:
            unread_from = scanned if event is None else event.received_at
            break
        scanned = event.received_at
        if matches(trigger.match, event.payload):
            due.append(due_by(trigger, event))
    return Sight(all_seen(cursor, min(unread_from, look.now)), due=due, more=unread_from != look.now)


def due_by(trigger: Event, event: InboxEvent) -> Due:
    """What an event that matches makes due."""
    logical_at = trigger.logical_at(event.received_at)
    return Due(Origin.EVENT, event.id, event.received_at, logical_at, {"event_id": event.id}, event.payload)


def seen_since(cursor: TriggerCursor) -> Microseconds:
    """Events received before this instant are nothing to a trigger, or have been seen."""
    return max(cursor.first, cursor.marks.get("since", cursor.first))


def all_seen(cursor: TriggerCursor, before: Microseconds) -> TriggerCursor:
    """The cursor of a trigger that has seen every event that was received before an instant and is visible."""
    return marked(cursor, since=max(seen_since(cursor), before - _OVERLAP))


def matches(wanted: Mapping[str, JsonValue], payload: Mapping[str, JsonValue]) -> bool:
    """Whether a payload has fields of these values; true is not 1."""
    return all(
        name in payload and payload[name] == value and isinstance(payload[name], bool) == isinstance(value, bool)
        for name, value in wanted.items()
    )


def _events(look: Look, trigger: Event, since: int) -> Iterator[InboxEvent | None]:
    """Unclaimed events, page by page; None if there may be more than one evaluation reads."""
    last: InboxEvent | None = None
    for _ in range(_PAGES):
        with look.hub.database.reading() as connection:
            page = look.hub.inbox.unclaimed(
                connection, look.task, trigger_name(trigger), trigger.event, since=since, beyond=last, limit=_PAGE
            )
        yield from page
        if len(page) < _PAGE:
            return
        last = page[-1]
    yield None
