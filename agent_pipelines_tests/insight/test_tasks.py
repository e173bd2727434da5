from datetime import datetime

from agent_pipelines.core.clock import isoformat, to_microseconds
from agent_pipelines.core.task import TaskSpec
from agent_pipelines.insight.tasks import KnownTask, TaskOverview, overview, recorded_tasks
from agent_pipelines_tests.insight.filled import CHECKER, DIGEST, Filled


def look(filled: Filled, spec: TaskSpec, *, is_declared: bool = True, **switched: bool) -> TaskOverview:
    task = KnownTask(spec, "defs.yaml:2", is_declared)
    hub = filled.hub
    return overview(hub.database, hub.ledger, hub.triggers, task, now=hub.clock.now(), switched=switched)


def test_a_task_with_its_newest_execution_and_next_due_instant(filled: Filled) -> None:
    assert look(filled, DIGEST).last is None
    filled.everything()
    seen = look(filled, DIGEST)
    assert seen.last is not None
    assert seen.last.text == "Better late."
    assert seen.next_due is not None
    now = filled.clock.now()
    assert isoformat(seen.next_due).endswith("T06:00:00Z")
    assert now < seen.next_due <= now + 86_400_000_000
    assert [trigger.next_due is None for trigger in seen.triggers] == [False, True]


def test_what_is_switched_off_is_not_due(filled: Filled) -> None:
    seen = look(filled, DIGEST, reports__digest__cron=False, reports__digest__triggers=False)
    assert [trigger.is_on for trigger in seen.triggers] == [False, False]
    assert seen.next_due is None
    declared_off = DIGEST.model_copy(update={"triggers": (DIGEST.triggers[0].model_copy(update={"enabled": False}),)})
    assert look(filled, declared_off).next_due is None
    assert look(filled, declared_off, reports__digest__cron=True).next_due is not None


def test_nothing_is_promised_for_a_task_that_only_the_record_knows(filled: Filled) -> None:
    seen = look(filled, DIGEST, is_declared=False)
    assert [trigger.is_on for trigger in seen.triggers] == [None, None]
    assert seen.next_due is None


def test_recorded_tasks_have_the_specification_that_ran_last(filled: Filled) -> None:
    filled.everything()
    changed = DIGEST.model_copy(update={"intent": "Sum up the night"})
    filled.execute(changed, "One.")
    filled.execute(DIGEST, "Back again.")
    tasks = recorded_tasks(filled.hub.database, filled.hub.ledger)
    assert [task.spec.path for task in tasks] == [CHECKER.path, DIGEST.path]
    assert tasks[1].spec.intent == "Sum up the day"
    assert not any(task.is_declared for task in tasks)
    assert tasks[1].found_in.startswith("execution ")


def test_next_due_is_the_first_of_several(filled: Filled) -> None:
    at = "2026-01-01T00:00:30Z"
    triggers = [{"kind": "cron", "cron": "0 6 * * *"}, {"kind": "at", "at": at}]
    spec = TaskSpec.model_validate({**CHECKER.canonical(), "triggers": triggers})
    assert look(filled, spec).next_due == to_microseconds(datetime.fromisoformat(at))
