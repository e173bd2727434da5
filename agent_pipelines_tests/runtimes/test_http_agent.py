import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import SecretStr

from agent_pipelines.core.errors import DefinitionError, ErrorClass, RuntimeFailure
from agent_pipelines.core.event import Final, Handle, Text, UsageReport
from agent_pipelines.core.invocation import Callback
from agent_pipelines.runtimes.base import Finished, StillRunning
from agent_pipelines.runtimes.catalog import create
from agent_pipelines.runtimes.http_agent import HttpAgentConfig, progress_of, progresses_of, values_of
from agent_pipelines_tests.runtimes.invoking import collect, invocation
from agent_pipelines_tests.runtimes.runs_server import RunsServer, running, settings


@pytest.fixture
def server() -> Iterator[RunsServer]:
    with running() as server:
        yield server


@pytest.mark.parametrize("many", [False, True])
def test_work_is_begun_asked_about_and_finished(server: RunsServer, many: bool) -> None:
    runtime = create("http", settings(server, many=many))
    assert (runtime.capabilities.hands_over, runtime.capabilities.cancels) == (True, True)

    async def main() -> None:
        asked = invocation("hello")
        (handle,) = await collect(runtime, asked)
        assert handle == Handle(id="run-1", poll_after=1.0)
        assert server.headers[0]["idempotency-key"] == asked.idempotency_key
        server.retry_after = "30"
        assert await runtime.poll(["run-1"]) == {"run-1": StillRunning(30.0)}
        server.finished = True
        progress = (await runtime.poll(["run-1"]))["run-1"]
        assert isinstance(progress, Finished)
        text, usage, final = progress.events
        assert (text, final) == (Text(text="echo: hello"), Final(text="echo: hello", model="m-1"))
        assert isinstance(usage, UsageReport)
        assert (usage.usage.input_tokens, usage.usage.output_tokens) == (11, 7)
        await runtime.cancel("run-1")
        failure = (await runtime.poll(["run-1"]))["run-1"]
        assert isinstance(failure, RuntimeFailure)
        assert failure.error_class is ErrorClass.CANCELLED
        await runtime.close()

    asyncio.run(main())
    assert server.cancelled == ["run-1"]


def test_what_is_not_there_has_failed_and_what_cannot_be_asked_is_unknown(server: RunsServer) -> None:
    runtime = create("http", settings(server))

    async def main() -> None:
        await collect(runtime, invocation("fail"))
        server.finished = True
        found = await runtime.poll(["run-1", "run-9"])
        broke, gone = found["run-1"], found["run-9"]
        assert isinstance(broke, RuntimeFailure)
        assert (broke.error_class, broke.message) == (ErrorClass.AGENT, "the agent says 'failed': it broke")
        assert isinstance(gone, RuntimeFailure)
        assert gone.error_class is ErrorClass.NOT_FOUND
        server.status = 503
        with pytest.raises(RuntimeFailure, match="503"):
            await runtime.poll(["run-1"])
        await runtime.close()

    asyncio.run(main())


CONFIG = {
    "base_url": "http://agent",
    "start": {"path": "/runs", "body": {"q": "{prompt}", "all": ["{messages}", "{callback_url}", "{callback_token}"]}},
    "handle": "id",
    "status": "state",
    "succeeded": ["done"],
    "result": {"text": "answer"},
    "poll": {"method": "GET", "path": "/runs/{handle}"},
    "callback_base_url": "https://ours/",
}


def config(**changes: Any) -> HttpAgentConfig:
    return HttpAgentConfig.model_validate({**CONFIG, **changes})


def test_placeholders_are_filled_in_one_pass() -> None:
    callback = Callback(wait_id="w", path="/api/v1/waits/w/callback", token=SecretStr("a-token-of-a-wait"))
    asked = invocation("say {system}").model_copy(update={"callback": callback})
    path, body = config().start.filled(values_of(config(), asked))
    assert path == "/runs"
    assert body == {
        "q": "say {system}",
        "all": [[{"role": "user", "content": "say {system}"}], "https://ours/api/v1/waits/w/callback", "a-token-of-a-wait"],
    }
    assert "a-token-of-a-wait" not in asked.model_dump_json()
    assert config().poll is not None
    assert config(poll={"path": "/runs/{handle}"}).poll.filled({"handle": "a/../b c"}) == ("/runs/a%2F..%2Fb%20c", None)  # pyright: ignore[reportOptionalMemberAccess]


def test_a_word_that_is_not_declared_says_nothing() -> None:
    assert progress_of(config(), {"state": "pausing"}) is None
    nothing = progress_of(config(), {"state": "done"})
    assert isinstance(nothing, RuntimeFailure)
    assert nothing.error_class is ErrorClass.PROTOCOL


def test_an_answer_without_the_list_cannot_be_read() -> None:
    many = config(poll=None, poll_many={"path": "/q", "items": "runs", "handle": "id"})
    assert many.poll_many is not None
    with pytest.raises(RuntimeFailure, match="no list at `runs`"):
        progresses_of(many, many.poll_many, {"items": []})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"handle": None}, "`handle` goes with `poll`"),
        ({"status": None}, "`handle` needs `status`"),
        ({"start": {"path": "/{nothing}"}}, "`start` uses {nothing}"),
        ({"callback_base_url": None}, "which needs `callback_base_url`"),
        ({"cancel": {"path": "/{prompt}"}}, "`cancel` uses {prompt}"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        create("http", {**CONFIG, **changes})
    assert words in str(caught.value)
