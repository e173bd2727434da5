import pytest

from agent_pipelines.core.clock import ManualClock
from agent_pipelines.hub import Hub
from agent_pipelines.registry.registry import NotInState
from agent_pipelines_tests.registry.conftest import every_minute, spec

TRIGGERS = [
    every_minute(),
    {"kind": "event", "event": "day.closed"},
    {"kind": "at", "at": "2030-01-01T00:00:00Z", "enabled": False},
]


def states(hub: Hub) -> dict[str, tuple[str, str | None]]:
    with hub.database.reading() as connection:
        return {each.trigger: (each.state, each.reason) for each in hub.triggers.list(connection)}


def test_what_is_on_is_held_and_let_go(hub: Hub, clock: ManualClock) -> None:
    task = spec(triggers=TRIGGERS, priority=4)
    assert hub.pauses.pause(task, "holidays", switched_on={"interval": True}, actor="cli:kim") == ["interval", "event"]
    assert states(hub) == {"interval": ("paused", "holidays"), "event": ("paused", "holidays")}
    clock.time += 600_000_000
    assert hub.pauses.resume(task, switched_on={"event": False}, actor="cli:lee") == ["interval", "event"]
    assert states(hub) == {"interval": ("on", None), "event": ("off", None)}
    with hub.database.reading() as connection:
        stored = hub.triggers.get(connection, task.key, "interval")
        entries = hub.audit.list(connection, object=task.path)
    assert stored is not None
    assert (stored.source, stored.lane, stored.priority, stored.spec_hash) == ("declared", "run", 4, task.spec_hash)
    assert stored.looked_until == clock.now()  # what was due meanwhile is not caught up
    assert [(entry.action, entry.actor) for entry in entries] == [("task.resume", "cli:lee"), ("task.pause", "cli:kim")]
    assert entries[1].details == {"triggers": ["interval", "event"], "reason": "holidays"}


def test_there_must_be_something_to_hold_or_to_let_go(hub: Hub) -> None:
    task = spec(triggers=TRIGGERS)
    with pytest.raises(NotInState, match="task inbox/watch has no trigger that is on"):
        hub.pauses.pause(task, "why", switched_on={"interval": False, "event": False}, actor="a")
    with pytest.raises(NotInState, match="task inbox/watch is not paused"):
        hub.pauses.resume(task, switched_on={}, actor="a")
    assert states(hub) == {}
