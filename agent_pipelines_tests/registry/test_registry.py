import threading
from typing import Any

import pytest

from agent_pipelines.core.clock import ManualClock
from agent_pipelines.core.errors import DefinitionError
from agent_pipelines.core.problems import DefinitionErrors
from agent_pipelines.engine.triggers import StoredTrigger
from agent_pipelines.hub import Hub
from agent_pipelines.registry.registry import NotInState, NotRegistered
from agent_pipelines_tests.registry.conftest import DECLARED, every_minute, spec

KEY = ("default", "inbox", "watch")
MINUTE = 60_000_000


def triggers(hub: Hub) -> dict[str, StoredTrigger]:
    with hub.database.reading() as connection:
        return {stored.trigger: stored for stored in hub.triggers.list(connection, task=KEY)}


def actions(hub: Hub, path: str = "inbox/watch") -> list[tuple[str, str]]:
    with hub.database.reading() as connection:
        return [(entry.action, entry.actor) for entry in reversed(hub.audit.list(connection, object=path))]


def versions(hub: Hub) -> list[tuple[int, str]]:
    with hub.database.reading() as connection:
        return [(version.version, version.actor) for version in hub.registered.versions(connection, KEY)]


def test_a_registered_task_has_a_version_its_triggers_and_an_entry(hub: Hub, clock: ManualClock) -> None:
    done = hub.registry.register(spec(triggers=[every_minute()], priority=7), DECLARED, actor="cli:kim")
    assert done.is_new
    assert (done.task.path, done.task.version, done.task.state, done.task.actor) == ("inbox/watch", 1, "enabled", "cli:kim")
    trigger = triggers(hub)["interval"]
    assert (trigger.source, trigger.lane, trigger.state, trigger.priority) == ("registered", "burst", "on", 7)
    assert trigger.spec_hash == done.task.spec_hash
    assert trigger.next_due_at == clock.now() + MINUTE
    assert hub.registry.spec_of(done.task).lane == "burst"
    assert (versions(hub), actions(hub)) == ([(1, "cli:kim")], [("task.register", "cli:kim")])


def test_the_same_specification_is_no_new_version(hub: Hub) -> None:
    first = hub.registry.register(spec(triggers=[every_minute()]), DECLARED, actor="cli:kim")
    again = hub.registry.register(spec(triggers=[every_minute()], lane="burst"), DECLARED, actor="cli:lee")
    assert (again.is_new, again.task) == (False, first.task)
    assert (versions(hub), actions(hub)) == ([(1, "cli:kim")], [("task.register", "cli:kim")])


def test_a_new_version_replaces_triggers_and_fires_nothing_past(hub: Hub, clock: ManualClock) -> None:
    before = [every_minute(), {"kind": "event", "event": "mail.received"}]
    hub.registry.register(spec(triggers=before), DECLARED, actor="cli:kim")
    clock.time += 10 * MINUTE
    done = hub.registry.register(spec(triggers=[every_minute(every="5m")], agent="inspector"), DECLARED, actor="api:lee")
    assert (done.is_new, done.task.version, done.task.agent) == (True, 2, "inspector")
    (trigger,) = triggers(hub).values()
    assert (trigger.trigger, trigger.since, trigger.spec_hash) == ("interval", clock.now(), done.task.spec_hash)
    assert trigger.next_due_at == clock.now() + 5 * MINUTE
    assert versions(hub) == [(2, "api:lee"), (1, "cli:kim")]


def test_an_edit_of_the_prompt_does_not_touch_what_is_due(hub: Hub, clock: ManualClock) -> None:
    hub.registry.register(spec(triggers=[every_minute()]), DECLARED, actor="cli:kim")
    before = triggers(hub)["interval"]
    clock.time += MINUTE // 2
    done = hub.registry.register(spec(triggers=[every_minute()], prompt="Look at it"), DECLARED, actor="cli:kim")
    after = triggers(hub)["interval"]
    assert after == before.model_copy(update={"spec_hash": done.task.spec_hash})


def test_states_switch_the_triggers(hub: Hub, clock: ManualClock) -> None:
    declared_off = {"kind": "event", "event": "mail.received", "enabled": False}
    hub.registry.register(spec(triggers=[every_minute(), declared_off]), DECLARED, actor="a")
    registry = hub.registry

    def states() -> dict[str, tuple[str, str | None]]:
        return {name: (trigger.state, trigger.reason) for name, trigger in triggers(hub).items()}

    assert states() == {"interval": ("on", None), "event": ("off", None)}
    paused = registry.pause(KEY, "holidays", actor="b")
    assert (paused.state, paused.reason, paused.actor) == ("paused", "holidays", "b")
    assert states() == {"interval": ("paused", "holidays"), "event": ("off", None)}
    assert triggers(hub)["interval"].next_due_at is None
    clock.time += 10 * MINUTE
    assert registry.resume(KEY, actor="c").state == "enabled"
    assert states() == {"interval": ("on", None), "event": ("off", None)}
    assert triggers(hub)["interval"].next_due_at == clock.now() + MINUTE
    assert registry.disable(KEY, actor="d").state == "disabled"
    assert states() == {"interval": ("off", None), "event": ("off", None)}
    registry.disable(KEY, actor="d")  # changes nothing, so it is told once
    assert registry.enable(KEY, actor="e").state == "enabled"
    told = [action for action, _ in actions(hub)]
    assert told == ["task.register", "task.pause", "task.resume", "task.disable", "task.enable"]
    with pytest.raises(NotInState, match="task inbox/watch is enabled, not paused"):
        registry.resume(KEY, actor="c")


def test_a_new_version_of_a_paused_task_stays_paused(hub: Hub) -> None:
    hub.registry.register(spec(triggers=[every_minute()]), DECLARED, actor="a")
    hub.registry.pause(KEY, "holidays", actor="b")
    done = hub.registry.register(spec(triggers=[every_minute(every="2m")]), DECLARED, actor="c")
    assert (done.task.version, done.task.state, done.task.reason) == (2, "paused", "holidays")
    assert (triggers(hub)["interval"].state, triggers(hub)["interval"].reason) == ("paused", "holidays")


def test_a_removed_task_is_gone_and_may_come_back(hub: Hub) -> None:
    hub.registry.register(spec(triggers=[every_minute()]), DECLARED, actor="a")
    assert hub.registry.remove(KEY, actor="b").state == "removed"
    assert triggers(hub) == {}
    with hub.database.reading() as connection:
        assert hub.registered.list(connection) == []
        assert [task.path for task in hub.registered.list(connection, state="removed")] == ["inbox/watch"]
    for verb in (hub.registry.enable, hub.registry.remove, hub.registry.run_now):
        with pytest.raises(NotRegistered, match="no task inbox/watch is registered"):
            verb(KEY, actor="a")
    back = hub.registry.register(spec(triggers=[every_minute()]), DECLARED, actor="c")
    assert (back.is_new, back.task.version, back.task.state) == (True, 2, "enabled")
    assert triggers(hub)["interval"].state == "on"


def test_run_now_claims_a_tick_of_the_present_version(hub: Hub, clock: ManualClock) -> None:
    task = hub.registry.register(spec(priority=3), DECLARED, actor="a").task
    hub.registry.disable(KEY, actor="a")
    first = hub.registry.run_now(KEY, actor="cli:kim", variables={"topic": "now"}, logical_at=5)
    second = hub.registry.run_now(KEY, actor="cli:kim")
    assert first.occurrence != second.occurrence
    assert (first.trigger, first.origin, first.lane, first.run_id) == ("on_demand", "on_demand", "burst", None)
    assert (first.spec_hash, first.priority, first.actor) == (task.spec_hash, 3, "cli:kim")
    assert (first.due_at, first.logical_at, first.inputs) == (clock.now(), 5, {"variables": {"topic": "now"}})
    with hub.database.transaction() as connection:
        taken = hub.ticks.take(connection, lane="burst", until=clock.now(), limit=10, run_id="r", workspace="default")
    assert [tick.id for tick in taken] == sorted([first.id, second.id])
    assert actions(hub)[-1] == ("task.run", "cli:kim")


def test_run_now_keeps_no_secret(hub: Hub) -> None:
    hub.registry.register(spec(), DECLARED, actor="a")
    with pytest.raises(DefinitionError, match=r"field `variables.key`: holds a secret"):
        hub.registry.run_now(KEY, actor="a", variables={"key": "sk-verysecretkey0123456789"})
    with hub.database.reading() as connection:
        assert hub.ticks.list(connection) == []


def test_a_bulk_is_registered_as_a_whole(hub: Hub) -> None:
    specs = [spec(f"t{number}", triggers=[every_minute()]) for number in range(2_000)]
    done = hub.registry.register_many(specs, DECLARED, actor="cli:kim")
    assert [each.task.path for each in done] == [each.path for each in specs]
    assert all(each.is_new and each.task.version == 1 for each in done)
    with hub.database.reading() as connection:
        assert len(hub.triggers.list(connection, source="registered", on_only=True)) == 2_000
        assert len(hub.audit.list(connection, action="task.register", limit=3_000)) == 2_000
    changed = [*specs[:1_999], spec("t1999", triggers=[every_minute(every="2m")])]
    again = hub.registry.register_many(changed, DECLARED, actor="cli:kim")
    assert [each.task.version for each in again if each.is_new] == [2]


def test_nothing_of_a_bulk_is_registered_if_a_part_is_wrong(hub: Hub) -> None:
    specs = [spec("good"), spec("bad", agent="wrighter"), spec("worse", prompt=None), spec("good")]
    with pytest.raises(DefinitionErrors) as raised:
        hub.registry.register_many(specs, DECLARED, actor="a", places=["1", "2", "3", "4"])
    found = [(problem.file, problem.field) for problem in raised.value.problems]
    assert sorted(found, key=str) == [("2", "agent"), ("3", "prompt"), ("4", "name")]
    with hub.database.reading() as connection:
        assert hub.registered.list(connection) == []


def test_tasks_may_refer_to_one_another_whatever_their_order(hub: Hub) -> None:
    second = spec("second", triggers=[{"kind": "after", "task": "first"}])
    hub.registry.register_many([second, spec("first")], DECLARED, actor="a")
    third = spec("third", triggers=[{"kind": "after", "task": "inbox/second"}], dependencies=["first", "reports/digest"])
    assert hub.registry.register(third, DECLARED, actor="a").is_new
    closing = spec("first", triggers=[{"kind": "after", "task": "third"}])
    words = "field `triggers[0].task`: a circle: inbox/first waits for inbox/third waits for inbox/"
    with pytest.raises(DefinitionError) as raised:
        hub.registry.register(closing, DECLARED, actor="a")
    # Two ways lead around; each is told.
    problems = raised.value.problems if isinstance(raised.value, DefinitionErrors) else (raised.value,)
    assert str(problems[0]).startswith(words)
    hub.registry.remove(("default", "inbox", "first"), actor="a")
    with pytest.raises(DefinitionError, match="there is no task `inbox/first`"):
        hub.registry.register(spec("fourth", triggers=[{"kind": "after", "task": "first"}]), DECLARED, actor="a")


def test_an_instant_that_has_passed_is_refused_unless_the_task_had_it_already(hub: Hub, clock: ManualClock) -> None:
    once: list[dict[str, Any]] = [{"kind": "at", "at": "2026-01-01T01:00:00Z"}]
    hub.registry.register(spec(triggers=once), DECLARED, actor="a")
    clock.time += 120 * MINUTE
    assert not hub.registry.register(spec(triggers=once), DECLARED, actor="a").is_new
    assert hub.registry.register(spec(triggers=once, prompt="Look"), DECLARED, actor="a").is_new
    with pytest.raises(DefinitionError, match=r"field `triggers\[0\]`: is never due again"):
        hub.registry.register(spec("other", triggers=once), DECLARED, actor="a")


def test_two_who_register_the_same_tasks_at_once(hub: Hub) -> None:
    specs = [spec(f"t{number}", triggers=[every_minute()]) for number in range(40)]
    failed: list[BaseException] = []

    def register(actor: str, turn: int) -> None:
        try:
            hub.registry.register_many(specs[::turn], DECLARED, actor=actor)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=register, args=(f"api:{number}", 1 if number % 2 else -1)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    with hub.database.reading() as connection:
        assert {task.version for task in hub.registered.list(connection, limit=100)} == {1}
        assert len(hub.audit.list(connection, action="task.register", limit=1_000)) == 40
        assert len(hub.triggers.history.changes(connection, after=0)) == 40


def test_workspaces_are_apart(hub: Hub) -> None:
    hub.registry.register_many([spec(), spec(workspace="lab")], DECLARED, actor="a")
    hub.registry.disable(("lab", "inbox", "watch"), actor="a")
    with hub.database.reading() as connection:
        assert [task.state for task in hub.registered.list(connection)] == ["enabled"]
        assert [task.state for task in hub.registered.list(connection, workspace="lab")] == ["disabled"]
        assert [entry.action for entry in hub.audit.list(connection, workspace="lab")] == ["task.disable", "task.register"]
