"""A real model in place of the rules, with the same tools."""

import json
from collections.abc import Sequence
from typing import Any

import httpx

from examples.agents.agent import Agent
from examples.agents.answer import Answer, Message, Usage
from examples.agents.toolbox import Json, Toolbox, ToolError, WorkCancelledError

ROUNDS = 40
"""Calls of the model after which a piece of work is given up."""

PASSED_ON = ("temperature", "top_p", "max_tokens", "max_completion_tokens", "reasoning_effort", "response_format", "seed")


class ModelError(Exception):
    """The model's endpoint refused or failed. `status` is the HTTP status to pass on, `retry_after` its wish."""

    def __init__(self, status: int, message: str, retry_after: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


class Model:
    """Gives the tools of an agent to a model behind `POST {base_url}/chat/completions` until it answers."""

    def __init__(self, base_url: str, model: str, api_key: str | None) -> None:
        self.model = model
        self._url = f"{base_url.rstrip('/')}/chat/completions"
        self._api_key = api_key
        self._client = httpx.Client(timeout=httpx.Timeout(300, connect=10))

    def answer(self, agent: Agent[Any], messages: Sequence[Message], tools: Toolbox, options: dict[str, Any]) -> Answer:
        chat: list[dict[str, Any]] = [{"role": "system", "content": agent.instructions}]
        chat += [{"role": message.role, "content": message.text} for message in messages]
        body = {name: options[name] for name in PASSED_ON if name in options}
        body |= {"model": self.model, "tools": [tool.declaration() for tool in tools.tools.values()]}
        spent = {"prompt_tokens": 0, "completion_tokens": 0, "reasoning_tokens": 0}
        for _ in range(ROUNDS):
            if tools.cancelled.is_set():
                raise WorkCancelledError("cancelled before the model was asked")
            reply = self._ask({**body, "messages": chat})
            usage = reply.get("usage") or {}
            details = usage.get("completion_tokens_details") or {}
            spent["prompt_tokens"] += usage.get("prompt_tokens") or 0
            spent["completion_tokens"] += usage.get("completion_tokens") or 0
            spent["reasoning_tokens"] += details.get("reasoning_tokens") or 0
            message = reply["choices"][0]["message"]
            if not message.get("tool_calls"):
                text = _without_fence(message.get("content") or "")
                return Answer(text=text, model=reply.get("model") or self.model, usage=Usage(**spent))
            chat.append(message)
            for call in message["tool_calls"]:
                result = _use(tools, call["function"]["name"], call["function"].get("arguments") or "{}")
                chat.append({"role": "tool", "tool_call_id": call["id"], "content": json.dumps(result, ensure_ascii=False)})
        raise ModelError(500, f"the model did not come to an answer in {ROUNDS} rounds")

    def _ask(self, body: dict[str, Any]) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self._api_key}"} if self._api_key else {}
        try:
            response = self._client.post(self._url, json=body, headers=headers)
        except httpx.ConnectError as error:
            raise ModelError(503, f"the model cannot be reached: {error}") from None
        except httpx.HTTPError as error:
            raise ModelError(502, f"the model did not answer: {error!r}") from None
        if response.is_error:
            # An endpoint may quote the key that it refuses.
            text = response.text.replace(self._api_key, "[secret]") if self._api_key else response.text
            raise ModelError(response.status_code, f"the model answered: {text[:400]}", response.headers.get("retry-after"))
        try:
            reply = response.json()
            reply["choices"][0]["message"]["role"]
        except (ValueError, LookupError, TypeError):
            raise ModelError(502, f"the model answered with no chat completion: {response.text[:200]}") from None
        return reply


def _use(tools: Toolbox, name: str, arguments: str) -> Json:
    try:
        asked = json.loads(arguments)
        return tools.call(name, **asked) if isinstance(asked, dict) else {"error": "the arguments are not an object"}
    except json.JSONDecodeError as error:
        return {"error": f"the arguments are not JSON: {error}"}
    except ToolError as error:
        return {"error": str(error)}


def _without_fence(text: str) -> str:
    """Models like to wrap JSON in a code block."""
    stripped = text.strip()
    if stripped.startswith("```json") and stripped.endswith("```"):
        return stripped.removeprefix("```json").removesuffix("```").strip()
    return text
