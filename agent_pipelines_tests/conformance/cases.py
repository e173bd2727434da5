"""How each runtime is brought into the situations that the suite is about. A new adapter adds its cases here."""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent_pipelines.core.errors import ErrorClass, RuntimeFailure
from agent_pipelines.core.event import Usage
from agent_pipelines.runtimes.base import Runtime
from agent_pipelines.runtimes.catalog import create
from agent_pipelines.runtimes.fake import FakeConfig, FakeRuntime, Pause
from agent_pipelines.runtimes.node import NodeConfig, NodeRuntime
from agent_pipelines_tests.conformance.post import Post
from agent_pipelines_tests.runtimes import messages_wire
from agent_pipelines_tests.runtimes.scripted_server import Script, ScriptedServer, chunk, frames, whole
from agent_pipelines_tests.runtimes.waiting import is_alive

KEY = "SUITE_KEY"
PLANTED = "planted-value-of-the-suite"
SPENT = Usage(input_tokens=11, cached_input_tokens=3, output_tokens=7, reasoning_tokens=2)
"""What an echo reports in the words of its runtime, normalised."""


@dataclass
class World:
    """What a case may use. The environment variable KEY holds PLANTED."""

    server: ScriptedServer
    path: Path


@dataclass
class Hang:
    """A runtime that works until it is stopped; both conditions are given the text so far."""

    runtime: Runtime[Any]
    started: Callable[[str], object]
    stopped: Callable[[str], object]
    prompt: str = "hang"


Failure = Callable[[World], Runtime[Any]]


@dataclass
class Case:
    kind: str
    echo: Callable[[World], Runtime[Any]]
    """Answers `echo: <prompt>` and reports `spent`, if it reports usage."""
    structured: Callable[[World], Runtime[Any]]
    """Answers {"total": 3} to the prompt `sum`, if it takes a schema."""
    hang: Callable[[World], Hang]
    failures: Mapping[ErrorClass, Failure]
    """Fails with the class for the prompt `fail`."""
    leak: Failure
    """Fails for the prompt `fail` while the other side quotes PLANTED."""
    spent: Usage = SPENT
    """What the echo reports."""


def openai(stream: bool) -> Case:
    def runtime(world: World, **more: Any) -> Runtime[Any]:
        settings = {"base_url": world.server.base_url, "model": "scripted-1", "stream": stream, "api_key_env": KEY}
        return create("openai", settings | more)

    def failing(script: Script) -> Failure:
        def make(world: World) -> Runtime[Any]:
            world.server.scripts["fail"] = script
            return runtime(world)

        return make

    def structured(world: World) -> Runtime[Any]:
        content = {"content": '{"total": 3}'}
        world.server.scripts["sum"] = frames(chunk(content, "stop")) if stream else whole(content)
        return runtime(world, structured_output=True)

    def hang(world: World) -> Hang:
        parts = frames(chunk({"content": "up"}), done=False, end="hold")
        world.server.scripts["hang"] = parts if stream else Script(parts=["{"], end="hold")
        arrived, left = world.server.arrived, world.server.left
        started = (lambda text: text) if stream else (lambda text: arrived.acquire(blocking=False))
        return Hang(runtime(world), started, lambda text: left.acquire(blocking=False))

    def error(status: int) -> Failure:
        return failing(Script(status=status, parts=[{"error": {"message": "you sent $AUTHORIZATION"}}]))

    return Case(
        kind="openai",
        echo=runtime,
        structured=structured,
        hang=hang,
        failures={
            ErrorClass.AUTHENTICATION: error(401),
            ErrorClass.PERMISSION: error(403),
            ErrorClass.NOT_FOUND: error(404),
            ErrorClass.INVALID_REQUEST: error(422),
            ErrorClass.RATE_LIMIT: error(429),
            ErrorClass.QUOTA: error(402),
            ErrorClass.SERVER: error(500),
            ErrorClass.OVERLOADED: error(503),
            ErrorClass.PROTOCOL: failing(Script(parts=["garbage"])),
            ErrorClass.REFUSED: failing(whole({"refusal": "No."})),
            ErrorClass.AGENT: failing(whole({"content": "it broke"}, "error")),
            ErrorClass.UNKNOWN_OUTCOME: failing(Script(parts=["{"], end="cut")),
            ErrorClass.CONNECTION: lambda world: runtime(world, base_url="http://127.0.0.1:1/v1"),
        },
        leak=error(401),
    )


def anthropic(stream: bool) -> Case:
    say = messages_wire.streamed if stream else messages_wire.whole

    def runtime(world: World, **more: Any) -> Runtime[Any]:
        address = world.server.base_url.removesuffix("/v1")
        return create("anthropic", {"base_url": address, "model": "scripted-1", "stream": stream, "api_key_env": KEY} | more)

    def failing(script: Script) -> Failure:
        def make(world: World) -> Runtime[Any]:
            world.server.scripts["fail"] = script
            return runtime(world)

        return make

    def structured(world: World) -> Runtime[Any]:
        call = {"type": "tool_use", "id": "toolu_1", "name": "answer", "input": {"total": 3}}
        world.server.scripts["sum"] = say(call, stop_reason="tool_use")
        return runtime(world)

    def hang(world: World) -> Hang:
        up = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "up"}}
        parts = messages_wire.stream(messages_wire.begun(), up, end="hold")
        world.server.scripts["hang"] = parts if stream else Script(parts=["{"], end="hold")
        arrived, left = world.server.arrived, world.server.left
        started = (lambda text: text) if stream else (lambda text: arrived.acquire(blocking=False))
        return Hang(runtime(world), started, lambda text: left.acquire(blocking=False))

    def error(status: int, kind: str = "api_error") -> Failure:
        body = {"type": "error", "error": {"type": kind, "message": "you sent $AUTHORIZATION"}}
        return failing(Script(status=status, parts=[body]))

    return Case(
        kind="anthropic",
        echo=runtime,
        structured=structured,
        hang=hang,
        failures={
            ErrorClass.AUTHENTICATION: error(401, "authentication_error"),
            ErrorClass.PERMISSION: error(403, "permission_error"),
            ErrorClass.NOT_FOUND: error(404, "not_found_error"),
            ErrorClass.INVALID_REQUEST: error(400, "invalid_request_error"),
            ErrorClass.RATE_LIMIT: error(429, "rate_limit_error"),
            ErrorClass.QUOTA: error(400, "billing_error"),
            ErrorClass.SERVER: error(500),
            ErrorClass.OVERLOADED: error(529, "overloaded_error"),
            ErrorClass.PROTOCOL: failing(Script(parts=["garbage"])),
            ErrorClass.REFUSED: failing(say(messages_wire.text("No."), stop_reason="refusal")),
            ErrorClass.AGENT: failing(say(messages_wire.text("Later."), stop_reason="pause_turn")),
            ErrorClass.UNKNOWN_OUTCOME: failing(Script(parts=["{"], end="cut")),
            ErrorClass.CONNECTION: lambda world: runtime(world, base_url="http://127.0.0.1:1"),
        },
        leak=error(401),
        spent=SPENT.model_copy(update={"reasoning_tokens": None}),  # the API does not tell them apart
    )


_SPEAK = """
import json, os, sys, time
prompt = sys.stdin.read()
def say(**line): print(json.dumps(line), flush=True)
if prompt == "hang":
    say(type="text", text=str(os.getpid()))
    time.sleep(1_000)
if prompt == "fail":
    print("the key is", os.environ["SUITE_KEY"], file=sys.stderr)
    sys.exit(4)
answer = json.dumps({"total": 3}) if prompt == "sum" else "echo: " + prompt
usage = {"fresh": 8, "cached": 3, "out": 7, "thought": 2}
"""
_USAGE = {
    "input_tokens": ["usage.fresh", "usage.cached"],
    "cached_input_tokens": "usage.cached",
    "output_tokens": "usage.out",
    "reasoning_tokens": "usage.thought",
}
_COMMANDS: dict[str, tuple[str, dict[str, Any]]] = {
    "text": ("print(answer)", {}),
    "json": (
        "print(json.dumps({'answer': answer, 'data': {'total': 3} if prompt == 'sum' else None, 'usage': usage}))",
        {"result": {"text": "answer", "output": "data", **_USAGE}},
    ),
    "jsonl": (
        "say(type='text', text=answer[:3]); say(type='text', text=answer[3:])\n"
        "say(type='end', usage=usage, data={'total': 3} if prompt == 'sum' else None)",
        {
            "events": [
                {"match": {"type": "text"}, "event": "text", "text": "text"},
                {"match": {"type": "end"}, "event": "final", "output": "data", **_USAGE},
            ]
        },
    ),
}


def command(output: str) -> Case:
    speak, settings = _COMMANDS[output]

    def runtime(world: World, *arguments: str, **more: Any) -> Runtime[Any]:
        argv = [sys.executable, "-c", _SPEAK + speak, *arguments]
        return create("command", {"argv": argv, "output": output, "env_from": [KEY], "grace": 0.5, **settings, **more})

    def hang(world: World) -> Hang:
        if output != "json":

            def pid(text: str) -> int:
                return int(json.loads(text)["text"] if output == "text" else text)

            return Hang(runtime(world), lambda text: text, lambda text: not is_alive(pid(text)))
        # A document tells nothing before its end, so the process tells its id in a file.
        told = world.path / "pid"
        script = f"import os, time; open('{told}', 'w').write(f'{{os.getpid()}} '); time.sleep(1_000)"

        def said() -> str:
            return told.read_text() if told.exists() else ""

        silent = create("command", {"argv": [sys.executable, "-c", script], "output": output, "grace": 0.5})
        return Hang(silent, lambda text: said().endswith(" "), lambda text: not is_alive(int(said())))

    return Case(
        kind="command",
        echo=runtime,
        structured=lambda world: runtime(world, "{output_schema}") if output != "text" else runtime(world),
        hang=hang,
        failures={
            ErrorClass.AGENT: runtime,
            ErrorClass.QUOTA: lambda world: runtime(world, exit_codes={4: "quota"}),
            ErrorClass.NOT_FOUND: lambda world: create("command", {"argv": ["no-such-program"]}),
            ErrorClass.AUTHENTICATION: lambda world: runtime(world, env_from=["SUITE_KEY_THAT_IS_NOT_SET"]),
        },
        leak=runtime,
    )


def python(prefix: str) -> Case:
    def function(name: str) -> Callable[[World], Runtime[Any]]:
        path = f"agent_pipelines_tests.conformance.functions:{prefix}{name}"
        return lambda world: create("python", {"function": path, "grace": 0.5})

    def hang(world: World) -> Hang:
        if prefix:
            flag = world.path / "ended"
            return Hang(function("hang")(world), lambda text: text, lambda text: flag.exists(), str(flag))
        return Hang(function("hang")(world), lambda text: text, lambda text: not is_alive(int(text)))

    return Case(
        kind="python",
        echo=function("echo"),
        structured=function("total"),
        hang=hang,
        failures={
            ErrorClass.AGENT: function("fail"),
            ErrorClass.OVERLOADED: function("overloaded"),
            ErrorClass.NOT_FOUND: function("missing"),
        },
        leak=function("fail"),
    )


def http() -> Case:
    """The same server, described by paths: what it answers in one piece is the result."""
    result = {
        "text": "choices.0.message.content",
        "model": "model",
        "input_tokens": "usage.prompt_tokens",
        "cached_input_tokens": "usage.prompt_tokens_details.cached_tokens",
        "output_tokens": "usage.completion_tokens",
        "reasoning_tokens": "usage.completion_tokens_details.reasoning_tokens",
    }
    start = {"path": "/chat/completions", "body": {"messages": [{"role": "user", "content": "{prompt}"}]}}

    def runtime(world: World, **more: Any) -> Runtime[Any]:
        settings = {"base_url": world.server.base_url, "api_key_env": KEY, "start": start, "result": result}
        return create("http", settings | more)

    def failing(script: Script) -> Failure:
        def make(world: World) -> Runtime[Any]:
            world.server.scripts["fail"] = script
            return runtime(world)

        return make

    def structured(world: World) -> Runtime[Any]:
        world.server.scripts["sum"] = whole({"content": '{"total": 3}'})
        return runtime(world)

    def hang(world: World) -> Hang:
        world.server.scripts["hang"] = Script(parts=["{"], end="hold")
        arrived, left = world.server.arrived, world.server.left
        return Hang(runtime(world), lambda text: arrived.acquire(blocking=False), lambda text: left.acquire(blocking=False))

    def error(status: int) -> Failure:
        return failing(Script(status=status, parts=[{"error": {"message": "you sent $AUTHORIZATION"}}]))

    return Case(
        kind="http",
        echo=runtime,
        structured=structured,
        hang=hang,
        failures={
            ErrorClass.AUTHENTICATION: error(401),
            ErrorClass.RATE_LIMIT: error(429),
            ErrorClass.SERVER: error(500),
            ErrorClass.PROTOCOL: failing(Script(parts=["garbage"])),
            ErrorClass.UNKNOWN_OUTCOME: failing(Script(parts=["{"], end="cut")),
            ErrorClass.CONNECTION: lambda world: runtime(world, base_url="http://127.0.0.1:1/v1"),
        },
        leak=error(401),
    )


def fake() -> Case:
    def failing(error_class: ErrorClass) -> Failure:
        return lambda world: create("fake", {"fail_times": 1, "error_class": error_class})

    class Echo(FakeRuntime):
        """The echo of a fake has no prefix of its own."""

        def stream(self, invocation: Any) -> Any:
            said = invocation.messages[-1]
            prefixed = said.model_copy(update={"content": f"echo: {said.content}"})
            return super().stream(invocation.model_copy(update={"messages": (prefixed,)}))

    return Case(
        kind="fake",
        echo=lambda world: Echo(FakeConfig(usage=SPENT)),
        structured=lambda world: create("fake", {"replies": [{"total": 3}]}),
        hang=lambda world: Hang(FakeRuntime(script=[["up", Pause()]]), lambda text: text, lambda text: True),
        failures={error_class: failing(error_class) for error_class in ErrorClass},
        leak=lambda world: FakeRuntime(script=[RuntimeFailure(ErrorClass.AGENT, "scripted failure")]),
    )


def node() -> Case:
    def over(runtime: Runtime[Any]) -> tuple[Runtime[Any], Post]:
        post = Post(runtime)
        return NodeRuntime(NodeConfig(structured_output=True)).at("worker", "left", post), post

    def with_node(make: Failure) -> Failure:
        return lambda world: over(make(world))[0]

    def hang(world: World) -> Hang:
        runtime, post = over(there.hang(world).runtime)
        return Hang(runtime, lambda text: text, lambda text: post.stopped)

    there = fake()
    return Case(
        kind="node",
        echo=with_node(there.echo),
        structured=with_node(there.structured),
        hang=hang,
        failures={error_class: with_node(make) for error_class, make in there.failures.items()},
        leak=with_node(there.leak),
    )


CASES = {
    "anthropic stream": anthropic(stream=True),
    "anthropic whole": anthropic(stream=False),
    "openai stream": openai(stream=True),
    "openai whole": openai(stream=False),
    "command text": command("text"),
    "command json": command("json"),
    "command jsonl": command("jsonl"),
    "python sync": python(""),
    "python async": python("async_"),
    "http": http(),
    "fake": fake(),
    "node": node(),
}
