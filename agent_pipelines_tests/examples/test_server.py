import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from agent_pipelines.core.errors import ErrorClass, RuntimeFailure
from agent_pipelines.core.event import AgentEvent, Final, Reasoning, Text, UsageReport
from agent_pipelines.core.invocation import Invocation, Message, Origin
from agent_pipelines.runtimes.openai import OpenAIConfig, OpenAIRuntime
from agent_pipelines_tests.examples.serving import AgentServer, MailServer

NIGHT = "Check the night.\n\n```facts\nnight: 2013-02-06\nrequired_columns: [tailnum]\n```\n"
REPORT = "```facts\nday: 2026-03-05\nexecutions: []\n```"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentServer]:
    with AgentServer(tmp_path_factory.mktemp("home")) as server:
        yield server


def ask(server: AgentServer, model: str, content: Any, **options: Any) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": content}], **options}
    return httpx.post(f"{server.url}/chat/completions", json=body, timeout=60)


def test_an_answer_in_one_piece(server: AgentServer) -> None:
    answer = ask(server, "data-quality", NIGHT, temperature=0.1, response_format={"type": "json_object"})

    assert answer.status_code == 200
    body = answer.json()
    assert body["object"] == "chat.completion"
    assert body["model"] == "data-quality"
    (choice,) = body["choices"]
    assert choice["finish_reason"] == "stop"
    assert json.loads(choice["message"]["content"])["rows"] == 901
    assert choice["message"]["reasoning_content"].startswith("profile_night(night=")
    usage = body["usage"]
    # Four characters a token, rounded up.
    assert usage["prompt_tokens"] == (len(NIGHT) + 3) // 4
    reasoning = usage["completion_tokens_details"]["reasoning_tokens"]
    assert usage["completion_tokens"] - reasoning == (len(choice["message"]["content"]) + 3) // 4
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_an_answer_in_pieces(server: AgentServer) -> None:
    answer = ask(server, "data-quality", NIGHT, stream=True, stream_options={"include_usage": True})

    assert answer.headers["content-type"].startswith("text/event-stream")
    *frames, done = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    assert done == "[DONE]"
    chunks = [json.loads(frame) for frame in frames]
    assert len({chunk["id"] for chunk in chunks}) == 1
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]]
    assert deltas[0]["role"] == "assistant"
    assert len([delta for delta in deltas if delta.get("reasoning_content")]) >= 4
    assert json.loads("".join(delta.get("content") or "" for delta in deltas))["night"] == "2013-02-06"
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] > 0


def test_usage_is_streamed_only_if_asked_for(server: AgentServer) -> None:
    assert '"usage"' not in ask(server, "report-writer", REPORT, stream=True).text


def test_text_in_parts_is_read(server: AgentServer) -> None:
    answer = ask(server, "report-writer", [{"type": "text", "text": "Write."}, {"type": "text", "text": REPORT}])

    assert answer.json()["choices"][0]["message"]["content"].startswith("# Morning report, 2026-03-05")


@pytest.mark.parametrize("stream", [False, True])
def test_errors_have_the_form_of_the_protocol(server: AgentServer, stream: bool) -> None:
    unknown = ask(server, "gpt-9", "hello", stream=stream)
    assert unknown.status_code == 404
    assert unknown.json()["error"]["code"] == "model_not_found"
    assert "data-quality" in unknown.json()["error"]["message"]

    without_facts = ask(server, "data-quality", "hello", stream=stream)
    assert without_facts.status_code == 400
    assert without_facts.json()["error"]["type"] == "invalid_request_error"
    assert "the prompt has no facts" in without_facts.json()["error"]["message"]

    too_late = ask(server, "data-quality", NIGHT.replace("2013", "2014"), stream=stream)
    assert too_late.json()["error"]["code"] == "bad_facts" if not stream else "no flights for 2014-02-06" in too_late.text

    assert httpx.post(f"{server.url}/chat/completions", content=b"{").status_code == 400
    assert httpx.post(f"{server.url}/chat/completions", json={"model": "settlement", "messages": []}).status_code == 400


def test_models_and_health(server: AgentServer) -> None:
    names = ["code-review", "data-quality", "mail-writer", "reconciliation", "report-writer", "settlement"]

    assert [model["id"] for model in httpx.get(f"{server.url}/models").json()["data"]] == names
    assert httpx.get(server.url.replace("/v1", "/health")).json() == {"status": "ok", "agents": names, "mind": "rules"}


def invocation(prompt: str) -> Invocation:
    return Invocation(
        task="check",
        spec_hash="x",
        trigger="nightly",
        origin=Origin.SCHEDULE,
        occurrence="0",
        due_at=0,
        logical_at=0,
        messages=(Message(role="user", content=prompt),),
    )


def through_the_adapter(server: AgentServer, model: str, prompt: str) -> list[AgentEvent]:
    async def run() -> list[AgentEvent]:
        runtime = OpenAIRuntime(OpenAIConfig(base_url=server.url, model=model))
        try:
            return [event async for event in runtime.stream(invocation(prompt))]
        finally:
            await runtime.close()

    return asyncio.run(run())


def test_the_product_reads_the_answer(server: AgentServer) -> None:
    events = through_the_adapter(server, "data-quality", NIGHT)

    assert any(isinstance(event, Reasoning) for event in events)
    (usage,) = [event.usage for event in events if isinstance(event, UsageReport)]
    assert (usage.total_tokens or 0) > (usage.reasoning_tokens or 0) > 0
    final = events[-1]
    assert isinstance(final, Final)
    assert json.loads(final.text)["rows"] == 901
    assert final.text == "".join(event.text for event in events if isinstance(event, Text))


def test_the_product_reads_the_errors(server: AgentServer) -> None:
    for model, prompt, error_class in (
        ("nobody", NIGHT, ErrorClass.NOT_FOUND),
        ("data-quality", "hello", ErrorClass.INVALID_REQUEST),
    ):
        with pytest.raises(RuntimeFailure) as caught:
            through_the_adapter(server, model, prompt)
        assert caught.value.error_class is error_class


def test_many_at_the_same_time_send_one_mail(tmp_path: Path) -> None:
    prompt = '```facts\nkey: k\nto: [a@example.org]\nreport: "# Title\\n\\nText."\n```'

    async def run(url: str) -> list[httpx.Response]:
        body = {"model": "mail-writer", "messages": [{"role": "user", "content": prompt}]}
        async with httpx.AsyncClient(timeout=60) as client:
            return await asyncio.gather(*(client.post(f"{url}/chat/completions", json=body) for _ in range(8)))

    with MailServer(tmp_path) as mail, AgentServer(tmp_path, SMTP_HOST="127.0.0.1", SMTP_PORT=str(mail.port)) as server:
        answers = asyncio.run(run(server.url))

    assert len({answer.json()["choices"][0]["message"]["content"] for answer in answers}) == 1
    assert len(list((tmp_path / "mail").glob("*.eml"))) == 1
