import os
import signal
from typing import Any

import pytest

from agent_pipelines.context.composer import Composed, Composer, deduplication_key, trigger_variables
from agent_pipelines.context.prompts import Prompts
from agent_pipelines.context.sessions import Sessions
from agent_pipelines.context.state import TaskState
from agent_pipelines.context.window import estimate_tokens
from agent_pipelines.core.clock import ManualClock
from agent_pipelines.core.errors import DefinitionError, ErrorClass, ExecutionFailed, Stage
from agent_pipelines.core.invocation import Invocation, Origin
from agent_pipelines.core.task import TaskSpec
from agent_pipelines.core.trigger import Cron, Event
from agent_pipelines.store.database import Database

DUE = 1_767_225_600_000_000  # 2026-01-01T00:00:00Z


def task(name: str = "job", **fields: Any) -> TaskSpec:
    return TaskSpec(**{"name": name, "application": "app", "intent": "i", "agent": "writer", "prompt": "Go.", **fields})


def invoke(spec: TaskSpec, **fields: Any) -> Invocation:
    return Invocation(
        **{
            "application": spec.application,
            "task": spec.name,
            "spec_hash": spec.spec_hash,
            "trigger": "cron",
            "origin": Origin.SCHEDULE,
            "occurrence": "1",
            "due_at": DUE,
            "logical_at": DUE,
            **fields,
        }
    )


class Runs:
    """Executes tasks with an agent that answers by a function of the messages; each time with new objects."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.number = 0

    def compose(self, spec: TaskSpec, *, keeps_sessions: bool = False, agent: str = "writer", **fields: Any) -> Composed:
        return self.run(spec, None, keeps_sessions=keeps_sessions, agent=agent, **fields)

    def run(
        self,
        spec: TaskSpec,
        answer: str | None,
        *,
        output: Any = None,
        keeps_sessions: bool = False,
        remote_session_id: str | None = None,
        agent: str = "writer",
        upstream: dict[str, Any] | None = None,
        **fields: Any,
    ) -> Composed:
        self.number += 1
        execution_id = f"e{self.number}"
        clock = ManualClock(DUE + self.number)
        composer = Composer(Prompts(clock), Sessions(clock), TaskState(clock))
        database = Database(self.url)
        try:
            with database.transaction() as connection:
                composed = composer.compose(
                    connection,
                    invoke(spec, **fields),
                    spec,
                    agent=agent,
                    keeps_sessions=keeps_sessions,
                    execution_id=execution_id,
                    upstream=upstream or {},
                )
            if answer is not None:
                with database.transaction() as connection:
                    composer.remember(
                        connection,
                        composed.invocation,
                        spec,
                        execution_id=execution_id,
                        text=answer,
                        output=output,
                        remote_session_id=remote_session_id,
                    )
        finally:
            database.close()
        return composed


@pytest.fixture
def runs(database: Database) -> Runs:
    return Runs(database.url.render_as_string(hide_password=False))


def contents(composed: Composed) -> list[str]:
    return [message.content for message in composed.invocation.messages]


def test_a_prompt_may_use_everything_that_an_execution_is_given(runs: Runs) -> None:
    prompt = (
        "{{ application }}/{{ task }} {{ item }} {{ logical_time }} {{ due_at }} {{ region }} {{ commit }} "
        "{{ event.size }} {{ state.baseline }} {{ upstream['app/report'].total }}"
    )
    spec = task(
        prompt=prompt,
        system="For {{ region }}.",
        variables={"region": "north", "commit": "none"},
        parameters={"temperature": 0},
        dependencies=["report"],
        remember=["baseline"],
        output={"format": "json", "schema": {"type": "object"}},
    )
    Composer.check(spec)
    composed = runs.compose(
        spec,
        item="7",
        due_at=DUE + 1_500_000,
        variables={"commit": "abc"},
        event={"size": 3},
        upstream={"app/report": {"total": 12}},
    )
    assert contents(composed) == [
        "For north.",
        "app/job 7 2026-01-01T00:00:00Z 2026-01-01T00:00:01.500000Z north abc 3 null 12",
    ]
    given = composed.invocation
    assert given.parameters == {"temperature": 0}
    assert given.output_schema == {"type": "object"}
    assert (given.state, given.upstream) == ({"baseline": None}, {"app/report": {"total": 12}})
    assert given.prompt_version is not None
    assert given.session_id is not None
    assert given.remote_session_id is None


def test_specified_session_is_shared_by_the_tasks_that_name_it(runs: Runs) -> None:
    desk = {"mode": "named", "name": "desk"}
    runs.run(task("nightly", prompt="Note the outage.", session=desk), "Noted: outage at 3.")
    chat = runs.compose(task("chat", prompt="What happened?", session=desk))
    assert contents(chat) == ["Note the outage.", "Noted: outage at 3.", "What happened?"]
    assert contents(runs.compose(task("chat", prompt="What happened?", session=desk), agent="coder")) == ["What happened?"]


def test_task_session_is_shared_by_the_executions_of_the_task_alone(runs: Runs) -> None:
    first, other = (task(name, prompt=f"I am {name}.", session={"mode": "task"}) for name in ("a", "b"))
    runs.run(first, "Hello a.")
    runs.run(other, "Hello b.")
    assert contents(runs.compose(first)) == ["I am a.", "Hello a.", "I am a."]


def test_fresh_session_has_no_trace_of_earlier_runs(runs: Runs) -> None:
    runs.run(task(prompt="First."), "Remember 42.")
    assert contents(runs.compose(task(prompt="Second."))) == ["Second."]


def test_a_conversation_survives_a_killed_process(runs: Runs) -> None:
    spec = task(prompt="Remember 42.", session={"mode": "task"})
    pid = os.fork()
    if pid == 0:
        try:
            runs.run(spec, "I will.")
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
    assert contents(runs.compose(spec)) == ["Remember 42.", "I will.", "Remember 42."]


def test_a_failed_execution_leaves_no_turn(runs: Runs) -> None:
    spec = task(session={"mode": "task"})
    runs.compose(spec)
    assert contents(runs.compose(spec)) == ["Go."]


def test_an_agent_that_keeps_its_sessions_gets_only_what_is_new(runs: Runs) -> None:
    spec = task(session={"mode": "task"}, system="Be brief.")
    first = runs.run(spec, "One.", keeps_sessions=True, remote_session_id="r1")
    assert first.invocation.remote_session_id is None
    second = runs.compose(spec, keeps_sessions=True)
    assert second.invocation.remote_session_id == "r1"
    assert contents(second) == ["Be brief.", "Go."]
    stateless = runs.compose(spec)
    assert stateless.invocation.remote_session_id is None
    assert contents(stateless) == ["Be brief.", "Go.", "One.", "Go."]


def test_an_agent_that_has_told_no_session_gets_the_history(runs: Runs) -> None:
    spec = task(session={"mode": "task"})
    runs.run(spec, "One.", keeps_sessions=True)
    assert contents(runs.compose(spec, keeps_sessions=True)) == ["Go.", "One.", "Go."]


def test_a_session_stays_within_the_window_after_500_runs(runs: Runs, database: Database) -> None:
    spec = task(session={"mode": "task"}, window={"max_tokens": 1_000}, prompt="Report {{ item }}. " + "x" * 80)
    clock = ManualClock()
    composer = Composer(Prompts(clock), Sessions(clock), TaskState(clock))
    sizes: list[int] = []
    with database.transaction() as connection:
        for number in range(500):
            composed = composer.compose(
                connection,
                invoke(spec, item=str(number)),
                spec,
                agent="writer",
                keeps_sessions=False,
                execution_id=f"e{number}",
                upstream={},
            )
            sizes.append(sum(estimate_tokens(message.content) for message in composed.invocation.messages))
            composer.remember(
                connection,
                composed.invocation,
                spec,
                execution_id=f"e{number}",
                text=f"Answer {number}. " + "y" * 100,
                output=None,
                remote_session_id=None,
            )
    assert max(sizes) <= 1_000
    last = runs.compose(spec, item="now")
    answers = [text.split(".")[0] for text in contents(last)[1::2]]
    assert answers == [f"Answer {number}" for number in range(500 - len(answers), 500)]
    assert len(answers) > 10
    assert last.trimmed == (f"history: {500 - len(answers)} of 500 turns left out",)


def test_state_is_what_the_last_success_left(runs: Runs) -> None:
    spec = task(prompt="{{ state.seen }}", output={"format": "json"}, remember=["seen"])
    assert contents(runs.run(spec, "{}", output={"seen": [1], "other": 2})) == ["null"]
    assert contents(runs.compose(spec)) == ["[1]"]
    other = spec.model_copy(update={"name": "other"})
    assert contents(runs.compose(other)) == ["null"]


@pytest.mark.parametrize(
    ("output", "problem"),
    [
        ({"other": 1}, "the output has no field `seen`"),
        ([1], "the output is not an object"),
        (None, "the output is not an object"),
        ({"seen": [float("nan")]}, "the field `seen` of the output holds a number that is none"),
    ],
)
def test_an_output_without_a_remembered_field_leaves_nothing(runs: Runs, output: Any, problem: str) -> None:
    spec = task(prompt="{{ state.seen }}", session={"mode": "task"}, output={"format": "json"}, remember=["seen"])
    with pytest.raises(ExecutionFailed, match=f"^remember: {problem}") as caught:
        runs.run(spec, "text", output=output)
    assert (caught.value.error_class, caught.value.stage) == (ErrorClass.OUTPUT, Stage.SETTLE)
    assert contents(runs.compose(spec)) == ["null"]


def test_a_task_without_a_prompt_has_values_but_no_messages(runs: Runs) -> None:
    spec = task(prompt=None, parameters={"top_k": 1}, output={"format": "json"}, remember=["seen"], session={"mode": "task"})
    runs.run(spec, "", output={"seen": 1})
    given = runs.compose(spec, upstream={"app/report": 2}).invocation
    assert (given.messages, given.prompt_version, given.session_id) == ((), None, None)
    assert (given.state, given.upstream, given.parameters) == ({"seen": 1}, {"app/report": 2}, {"top_k": 1})


def test_a_rolled_back_prompt_is_used_whole(runs: Runs, database: Database) -> None:
    old = task(prompt="Old.", system="Old rules.", parameters={"temperature": 0})
    new = task(prompt="New.", parameters={"temperature": 1})
    version = runs.compose(old).invocation.prompt_version
    named = runs.compose(new).invocation.prompt_version
    with database.transaction() as connection:
        Prompts(ManualClock()).rollback(connection, new.key, actor="kim", reason="worse")
    back = runs.compose(new)
    assert contents(back) == ["Old rules.", "Old."]
    assert (back.invocation.parameters, back.invocation.prompt_version) == ({"temperature": 0}, version)
    assert contents(runs.compose(new, prompt_version=named)) == ["New."]


def test_what_was_cut_is_told(runs: Runs) -> None:
    spec = task(prompt="{{ event.diff }}", window={"max_tokens": 100})
    composed = runs.compose(spec, event={"diff": "d" * 1_000})
    (told,) = composed.trimmed
    assert told.startswith("event.diff: ")
    assert sum(map(len, contents(composed))) <= 400


def test_a_prompt_that_cannot_be_composed_names_itself(runs: Runs) -> None:
    with pytest.raises(ExecutionFailed, match=r"^prompt of app/job, line 2: 'dict object' has no attribute 'commit'"):
        runs.compose(task(prompt="a\n{{ event.commit }}"), event={})
    with pytest.raises(ExecutionFailed, match=r"^system of app/job, line 1: 'commit' is undefined"):
        runs.compose(task(system="{{ commit }}"))


def test_a_message_never_becomes_a_template(runs: Runs) -> None:
    spec = task(prompt="{{ event.text }} {{ note }}", session={"mode": "task"})
    runs.run(spec, "{{ answer }}", event={"text": "{{ state }}"}, variables={"note": "{% if %}"})
    assert contents(runs.compose(spec, event={"text": "x"}, variables={"note": "y"})) == [
        "{{ state }} {% if %}",
        "{{ answer }}",
        "x y",
    ]


PUSH = {"kind": "event", "name": "push", "event": "pushed"}
NIGHTLY = {"kind": "cron", "name": "nightly", "cron": "0 2 * * *"}


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "{{ commit }} {{ day }}", "triggers": [PUSH | {"variables": {"commit": "{{ event.commit }}", "day": 1}}]},
        {"prompt": None, "triggers": [NIGHTLY | {"variables": {"night": ["{{ logical_time }}", {"due": "{{ due_at }}"}]}}]},
        {"variables": {"commit": "none"}, "deduplicate_by": "{{ commit }} {{ event.id }} {{ logical_time }} {{ item }}"},
    ],
)
def test_tasks_that_can_work_pass(fields: dict[str, Any]) -> None:
    Composer.check(task(**fields))


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"prompt": "{{ comit }}", "variables": {"commit": 1}}, "defs.yaml, field `prompt`: line 1: `comit` .* mean `commit`"),
        ({"system": "{{ x }}"}, "field `system`: line 1: `x`"),
        ({"prompt": "{{ state.seen }}"}, r"`state.seen` is not among .* `remember: \[seen\]`"),
        ({"prompt": "{{ upstream['app/b'] }}", "dependencies": ["a"]}, r"upstream\['app/b'\] .* mean upstream\['app/a'\]"),
        ({"variables": {"event": 1}}, "field `variables`: `event` is a name that every prompt has. Choose another"),
        ({"variables": {"a-b": 1}}, "field `variables`: 'a-b' is not a name"),
        ({"triggers": [PUSH | {"variables": {"task": 1}}]}, "field `triggers.push.variables`: `task` is a name that every"),
        (
            {"triggers": [PUSH | {"variables": {"a": ["x", {"b": "{{ state.x }}"}]}}]},
            r"field `triggers.push.variables.a\[1\].b`: line 1: `state` is not a name",
        ),
        (
            {"triggers": [NIGHTLY | {"variables": {"a": "{{ event.commit }}"}}]},
            "field `triggers.nightly.variables.a`: line 1: `event` is not a name",
        ),
        ({"deduplicate_by": "{{ state.seen }}"}, "field `deduplicate_by`: line 1: `state` is not a name"),
        ({"deduplicate_by": "{{ commit"}, "field `deduplicate_by`: line 1: not a template"),
    ],
)
def test_tasks_that_cannot_work_say_why(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(DefinitionError, match=problem):
        Composer.check(task(**fields), file="defs.yaml")


def test_the_variables_of_a_trigger_are_rendered_with_its_event() -> None:
    push = Event(
        name="push",
        event="pushed",
        variables={"commit": "{{ event.commit }}", "at": "on {{ logical_time }}", "files": "{{ event.f }}"},
    )
    rendered = trigger_variables(push, event={"commit": "abc", "f": ["a"]}, due_at=DUE + 5, logical_at=DUE)
    assert rendered == {"commit": "abc", "at": "on 2026-01-01T00:00:00Z", "files": ["a"]}
    assert trigger_variables(Cron(cron="0 2 * * *"), event=None, due_at=DUE, logical_at=DUE) == {}
    with pytest.raises(ExecutionFailed, match=r"^triggers.push.variables.commit: 'dict object' has no attribute 'commit'"):
        trigger_variables(push, event={}, due_at=DUE, logical_at=DUE)


@pytest.mark.parametrize(
    ("template", "key"),
    [
        (None, None),
        ("{{ commit }}", "abc"),
        ("{{ commit }}/{{ event.id }}", "abc/7"),
        ("{{ event.id }}", "7"),
        ("{{ event.ids }}", "[1,2]"),
        ("{{ event.none }}", None),
        ("{{ event.empty }}", None),
        ("{{ region }} {{ logical_time }}", "north 2026-01-01T00:00:00Z"),
    ],
)
def test_the_deduplication_key_is_text(template: str | None, key: str | None) -> None:
    spec = task(deduplicate_by=template, variables={"region": "north", "commit": "none"})
    event = {"id": 7, "ids": [1, 2], "none": None, "empty": ""}
    assert deduplication_key(spec, invoke(spec, variables={"commit": "abc"}, event=event)) == key


def test_a_deduplication_key_that_cannot_be_made_names_the_task() -> None:
    spec = task(deduplicate_by="{{ event.commit }}")
    with pytest.raises(ExecutionFailed, match=r"^deduplicate_by of app/job: 'None' has no attribute 'commit'"):
        deduplication_key(spec, invoke(spec))
