"""Answers of Anthropic's Messages API."""

import json
from typing import Any

from agent_pipelines_tests.runtimes.scripted_server import DIALECTS, Script

USAGE = {
    "input_tokens": 6,
    "cache_creation_input_tokens": 2,
    "cache_read_input_tokens": 3,
    "output_tokens": 7,
}
"""Eleven tokens in, of which three from the cache."""


def text(content: str) -> dict[str, Any]:
    return {"type": "text", "text": content}


def message(*content: dict[str, Any], stop_reason: str | None = "end_turn", **more: Any) -> dict[str, Any]:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "scripted-1",
        "content": list(content),
        "stop_reason": stop_reason,
        "usage": USAGE,
    } | more


def whole(*content: dict[str, Any], stop_reason: str = "end_turn") -> Script:
    return Script(parts=[message(*content, stop_reason=stop_reason)])


def stream(*frames: dict[str, Any], end: str = "whole") -> Script:
    parts = [f"event: {frame['type']}\ndata: {json.dumps(frame)}\n\n" for frame in frames]
    return Script(content_type="text/event-stream", parts=parts, end=end)


def streamed(*content: dict[str, Any], stop_reason: str = "end_turn") -> Script:
    """The same answer as `whole`, in pieces as the API sends them."""
    frames: list[dict[str, Any]] = [begun()]
    for index, block in enumerate(content):
        frames.append({"type": "content_block_start", "index": index, "content_block": _empty(block)})
        frames += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in _deltas(block)]
        frames.append({"type": "content_block_stop", "index": index})
    usage = {"output_tokens": USAGE["output_tokens"]}
    frames.append({"type": "message_delta", "delta": {"stop_reason": stop_reason}, "usage": usage})
    return stream(*frames, {"type": "ping"}, {"type": "message_stop"})


def begun() -> dict[str, Any]:
    return {"type": "message_start", "message": message(stop_reason=None, usage=USAGE | {"output_tokens": 1})}


def spoken(content: str, is_stream: bool) -> Script:
    return streamed(text(content)) if is_stream else whole(text(content))


def _empty(block: dict[str, Any]) -> dict[str, Any]:
    return block | {"text": {"text": ""}, "thinking": {"thinking": ""}, "tool_use": {"input": {}}}[block["type"]]


def _deltas(block: dict[str, Any]) -> list[dict[str, Any]]:
    match block["type"]:
        case "text":
            return [{"type": "text_delta", "text": piece} for piece in _thirds(block["text"])]
        case "thinking":
            return [{"type": "thinking_delta", "thinking": block["thinking"]}]
        case _:
            return [{"type": "input_json_delta", "partial_json": piece} for piece in _thirds(json.dumps(block["input"]))]


def _thirds(content: str) -> list[str]:
    third = max(len(content) // 3, 1)
    return [content[:third], content[third : 2 * third], content[2 * third :]]


DIALECTS["/messages"] = spoken
