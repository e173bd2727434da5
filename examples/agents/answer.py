"""What comes back from a piece of work."""

import math
from collections.abc import Sequence
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict

from examples.agents.agent import Agent
from examples.agents.toolbox import Toolbox


class Message(BaseModel):
    """One message of a chat; its content is text or a list of parts, of which the text counts."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    role: str
    content: str | list[dict[str, Any]] | None = None

    @property
    def text(self) -> str:
        """The text of the message."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(str(part.get("text", "")) for part in self.content or [])


class Usage(BaseModel):
    """Tokens, named as in the OpenAI protocol."""

    model_config = ConfigDict(frozen=True)

    prompt_tokens: int
    completion_tokens: int
    reasoning_tokens: int = 0

    def wire(self) -> dict[str, Any]:
        """The usage as an answer carries it."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "completion_tokens_details": {"reasoning_tokens": self.reasoning_tokens},
        }


class Answer(BaseModel):
    """Text, what it took, and who gave it."""

    model_config = ConfigDict(frozen=True)

    text: str
    model: str
    usage: Usage


class Mind(Protocol):
    """What decides which tools an agent uses: its rules, or a model."""

    def answer(self, agent: Agent[Any], messages: Sequence[Message], tools: Toolbox, options: dict[str, Any]) -> Answer: ...


def estimated_tokens(text: str) -> int:
    """Four characters are counted as one token, as no tokenizer took part."""
    return math.ceil(len(text) / 4)
