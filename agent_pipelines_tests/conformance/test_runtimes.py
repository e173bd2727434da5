"""What every runtime must do, whatever its protocol."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import pytest

from agent_pipelines.core.errors import RuntimeFailure
from agent_pipelines.core.event import AgentEvent, Text, Usage, UsageReport, event_adapter
from agent_pipelines.core.execution import RunRef
from agent_pipelines.core.invocation import Invocation
from agent_pipelines.core.secrets import redactor
from agent_pipelines.core.task import TaskSpec
from agent_pipelines.hub import Hub
from agent_pipelines.runtimes.base import Runtime
from agent_pipelines.runtimes.catalog import kinds
from agent_pipelines.runtimes.fleet import Agent, Node
from agent_pipelines.store.database import Database
from agent_pipelines.store.migration import migrate
from agent_pipelines_tests.conformance.cases import CASES, KEY, PLANTED, Case, World
from agent_pipelines_tests.runtimes.invoking import collect, final, invocation, of_type, run
from agent_pipelines_tests.runtimes.scripted_server import ScriptedServer, running
from agent_pipelines_tests.runtimes.waiting import a_until

# Those that an execution asks itself. How it stops a node that fetches its work: e2e/test_outbound_nodes.py.
ASKED = [name for name, case in CASES.items() if case.kind != "node"]


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture(scope="module")
def server() -> Iterator[ScriptedServer]:
    with running() as server:
        yield server


@pytest.fixture
def world(server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setenv(KEY, PLANTED)
    redactor.register(PLANTED)
    server.forget()
    return World(server, tmp_path)


def test_every_runtime_has_a_case() -> None:
    assert {case.kind for case in CASES.values()} == set(kinds())


def test_it_is_of_its_kind(case: Case, world: World) -> None:
    assert case.echo(world).kind == case.kind


def test_one_final_comes_last_and_is_what_the_pieces_say(case: Case, world: World) -> None:
    events = run(case.echo(world), "a question of\nseveral words")
    assert final(events).text == "echo: a question of\nseveral words"


def test_events_survive_their_json_form(case: Case, world: World) -> None:
    for event in run(case.echo(world)):
        assert event_adapter.validate_json(event.model_dump_json()) == event


def test_usage_is_normalised(case: Case, world: World) -> None:
    runtime = case.echo(world)
    reports = of_type(run(runtime), UsageReport)
    assert bool(reports) == runtime.capabilities.reports_usage
    if reports:
        spent = reduce(add, (report.usage for report in reports), Usage())
        assert spent.model_copy(update={"requests": None, "cost_usd": None}) == case.spent


def test_a_schema_is_answered_with_an_output(case: Case, world: World) -> None:
    runtime = case.structured(world)
    last = final(run(runtime, invocation("sum", output_schema={"type": "object"})))
    assert last.output == ({"total": 3} if runtime.capabilities.structured_output else None)
    assert last.text == '{"total": 3}'


@pytest.mark.parametrize(
    ("name", "error_class"), [(name, error_class) for name, case in CASES.items() for error_class in case.failures]
)
def test_a_failure_has_its_class(name: str, error_class: Any, world: World) -> None:
    with pytest.raises(RuntimeFailure) as caught:
        run(CASES[name].failures[error_class](world), "fail")
    assert caught.value.error_class is error_class
    assert caught.value.message


def test_nothing_that_is_written_holds_a_secret(case: Case, world: World) -> None:
    written: list[AgentEvent] = []
    runtime = case.leak(world)

    async def main() -> None:
        try:
            async for event in runtime.stream(invocation("fail")):
                written.append(event)
        finally:
            await runtime.close()

    with pytest.raises(RuntimeFailure) as caught:
        asyncio.run(main())
    failure = caught.value
    texts = [str(failure), repr(failure), str(failure.code), *getattr(failure, "__notes__", []), repr(runtime.config)]
    texts += [event.model_dump_json() for event in written]
    assert not any(PLANTED in text or PLANTED[:10] in text for text in texts)
    assert failure.__suppress_context__ or failure.__context__ is None


def test_cancelling_stops_the_work(case: Case, world: World) -> None:
    hang = case.hang(world)
    # A node that is cut off goes on until its lease is over.
    assert hang.runtime.capabilities.cancels or case.kind == "node"
    seen: list[str] = []

    async def consume() -> None:
        async with aclosing(hang.runtime.stream(invocation(hang.prompt))) as events:
            async for event in events:
                assert isinstance(event, Text)
                seen.append(event.text)

    async def main() -> None:
        task = asyncio.create_task(consume())
        await a_until(lambda: hang.started("".join(seen)))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await a_until(lambda: hang.stopped("".join(seen)))
        await hang.runtime.close()

    asyncio.run(main())


@pytest.mark.parametrize("case", ASKED, indirect=True)
def test_cancelling_an_execution_reaches_the_work_and_says_what_was_done(case: Case, world: World) -> None:
    hang = case.hang(world)
    database = Database(f"sqlite:///{world.path / 'record.db'}")
    migrate(database)
    hub = Hub(database)
    seen: list[str] = []
    whole = hang.runtime.stream

    async def heard(given: Invocation) -> AsyncGenerator[AgentEvent, None]:
        async with aclosing(whole(given)) as events:
            async for event in events:
                if isinstance(event, Text):
                    seen.append(event.text)
                yield event

    hang.runtime.stream = heard
    task = TaskSpec(name="job", intent="Hang", agent="worker", prompt=hang.prompt)

    async def main() -> None:
        agent = Agent("worker", [Node("n1", hang.runtime)])
        asked = invocation(hang.prompt).model_copy(update={"messages": (), "task": "job", "application": "default"})
        working = asyncio.create_task(hub.runner.run(asked, task, agent, run=RunRef(run_id="r")))
        await a_until(lambda: hang.started("".join(seen)))
        working.cancel()
        with pytest.raises(asyncio.CancelledError):
            await working
        await a_until(lambda: hang.stopped("".join(seen)))
        await hang.runtime.close()

    asyncio.run(main())
    with database.reading() as connection:
        [stored] = hub.executions.list(connection)
        [attempt] = hub.executions.attempts.of(connection, stored.id)
        entries = hub.ledger.journal.read(connection, stored.id)
    database.close()
    assert (stored.status, attempt.status) == ("cancelled", "cancelled")
    [cancelled] = [entry.body for entry in entries if entry.kind == "cancelled"]
    assert (cancelled["done"], cancelled["ends_the_work"], cancelled["node"]) == (hang.runtime.stops_by, True, "n1")


def test_leaving_the_stream_stops_the_work(case: Case, world: World) -> None:
    hang = case.hang(world)
    if not hang.runtime.capabilities.streams:
        return  # gives nothing before its end, after which one could leave

    async def main() -> None:
        async with aclosing(hang.runtime.stream(invocation(hang.prompt))) as events:
            first = await anext(events)
            assert isinstance(first, Text)
        await a_until(lambda: hang.stopped(first.text))
        await hang.runtime.close()

    asyncio.run(main())


def test_it_serves_one_after_another_and_several_at_once(case: Case, world: World) -> None:
    runtime = case.echo(world)

    async def main() -> None:
        for prompt in ("first", "second"):
            assert final(await collect(runtime, invocation(prompt))).text == f"echo: {prompt}"
        prompts = [f"number {number}" for number in range(6)]
        answers = await asyncio.gather(*(collect(runtime, invocation(prompt)) for prompt in prompts))
        assert [final(events).text for events in answers] == [f"echo: {prompt}" for prompt in prompts]
        await runtime.close()

    asyncio.run(main())


def test_one_instance_serves_in_several_event_loops(case: Case, world: World) -> None:
    runtime = case.echo(world)
    for _ in range(2):
        assert final(run(runtime)).text == "echo: hello"


def test_closing_is_idempotent(case: Case, world: World) -> None:
    async def main(runtime: Runtime[Any]) -> None:
        await runtime.close()
        await collect(runtime, invocation())
        await runtime.close()
        await runtime.close()

    asyncio.run(main(case.echo(world)))
