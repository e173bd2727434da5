import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from agent_pipelines_tests.examples.serving import AgentServer
from examples.agents.answer import Message
from examples.agents.model import Model, ModelError
from examples.agents.settlement import Settlement
from examples.agents.toolbox import Toolbox

KEY = "test-key-4711"


class Endpoint:
    """An endpoint of chat completions that answers from a list and keeps what it was asked."""

    def __init__(self) -> None:
        self.replies: list[tuple[int, dict[str, Any], dict[str, str]]] = []
        self.asked: list[dict[str, Any]] = []
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                endpoint.asked.append({**body, "authorization": self.headers["authorization"], "path": self.path})
                status, reply, headers = endpoint.replies.pop(0)
                content = json.dumps(reply).encode()
                self.send_response(status)
                for name, value in {"content-type": "application/json", "content-length": str(len(content)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def says(self, content: str | None = None, *calls: tuple[str, str]) -> None:
        message: dict[str, Any] = {"role": "assistant", "content": content}
        if calls:
            message["tool_calls"] = [
                {"id": f"call-{number}", "type": "function", "function": {"name": name, "arguments": arguments}}
                for number, (name, arguments) in enumerate(calls)
            ]
        usage = {"prompt_tokens": 100, "completion_tokens": 10, "completion_tokens_details": {"reasoning_tokens": 4}}
        choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if calls else "stop"}
        self.replies.append((200, {"model": "m-1", "choices": [choice], "usage": usage}, {}))


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    endpoint = Endpoint()
    yield endpoint
    endpoint.server.shutdown()
    endpoint.server.server_close()


def test_a_model_works_with_the_tools_of_the_agent(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.says(None, ("net_positions", '{"hour": "2024-03-05T13:00:00Z"}'))
    endpoint.says(None, ("net_positions", '{"hour": "soon"}'), ("no_tool", "{}"), ("net_positions", "{"))
    endpoint.says(
        None,
        ("write_instruction", '{"hour": "2024-03-05T13:00:00Z", "positions": [{"counterparty": "Elbe Papier", "net_cents": 1}]}'),
    )
    endpoint.says('```json\n{"hour": "2024-03-05T13:00:00Z"}\n```')
    agent, told = Settlement(tmp_path), []
    tools = Toolbox(agent.tools(), tell=told.append)
    answer = Model(endpoint.url, "m-1", KEY).answer(agent, [Message(role="user", content="Settle.")], tools, {"temperature": 0.5})

    assert answer.text == '{"hour": "2024-03-05T13:00:00Z"}'
    assert answer.model == "m-1"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.reasoning_tokens) == (400, 40, 16)
    assert len(list((tmp_path / "settlements").glob("*.json"))) == 1

    first, second, third, _ = endpoint.asked
    assert first["path"] == "/v1/chat/completions"
    assert first["authorization"] == f"Bearer {KEY}"
    assert first["temperature"] == 0.5
    assert [tool["function"]["name"] for tool in first["tools"]] == ["net_positions", "write_instruction"]
    assert first["tools"][0]["function"]["parameters"]["required"] == ["hour"]
    assert [message["role"] for message in first["messages"]] == ["system", "user"]
    assert json.loads(second["messages"][-1]["content"])["total_cents"] == 17_725_842
    errors = [json.loads(message["content"])["error"] for message in third["messages"][-3:]]
    assert "`hour`" in errors[0]
    assert "there is no tool 'no_tool'" in errors[1]
    assert "not JSON" in errors[2]
    assert told[0].startswith("net_positions(")


def test_an_error_of_the_endpoint_is_passed_on_without_the_key(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.replies.append((429, {"error": {"message": f"slow down, {KEY}"}}, {"retry-after": "7"}))
    agent = Settlement(tmp_path)

    with pytest.raises(ModelError) as caught:
        Model(endpoint.url, "m-1", KEY).answer(agent, [Message(role="user", content="x")], Toolbox(agent.tools()), {})
    assert (caught.value.status, caught.value.retry_after) == (429, "7")
    assert KEY not in str(caught.value)


def test_an_endpoint_that_is_away_or_talks_nonsense(endpoint: Endpoint, tmp_path: Path) -> None:
    agent = Settlement(tmp_path)
    endpoint.replies.append((200, {"choices": []}, {}))
    for url, status in ((endpoint.url, 502), ("http://127.0.0.1:1/v1", 503)):
        with pytest.raises(ModelError) as caught:
            Model(url, "m-1", None).answer(agent, [Message(role="user", content="x")], Toolbox(agent.tools()), {})
        assert caught.value.status == status


def test_the_server_takes_the_model_from_the_environment(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.says("# Morning report")
    with AgentServer(tmp_path, AGENT_BASE_URL=endpoint.url, AGENT_MODEL="m-1", AGENT_API_KEY=KEY) as server:
        body = {"model": "report-writer", "messages": [{"role": "user", "content": "Write."}]}
        answer = httpx.post(f"{server.url}/chat/completions", json=body, timeout=60).json()

    assert answer["choices"][0]["message"]["content"] == "# Morning report"
    assert answer["model"] == "m-1"
    assert answer["usage"]["prompt_tokens"] == 100
    with (
        pytest.raises(RuntimeError, match="AGENT_BASE_URL and AGENT_MODEL go together"),
        AgentServer(tmp_path, AGENT_BASE_URL=endpoint.url),
    ):
        pass
