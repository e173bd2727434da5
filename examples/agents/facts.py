"""The block of a prompt that says what the work is about."""

import re
from collections.abc import Sequence
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

_BLOCK = re.compile(r"^[ \t]*```[ \t]*(?P<label>[\w+-]*)[^\n]*\n(?P<body>.*?)^[ \t]*```[ \t]*$", re.MULTILINE | re.DOTALL)
_LABELS = {"facts", "yaml", "yml", "json", ""}


class BadFactsError(ValueError):
    """A prompt does not say what the agent needs to know; the text says what is missing or wrong."""


class Facts(BaseModel):
    """What an agent needs to know. Each agent has its own; a name that it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


FactsT = TypeVar("FactsT", bound=Facts)


def read_facts(user_messages: Sequence[str], kind: type[FactsT]) -> FactsT:
    """Read the facts from the newest message that carries a fenced block of YAML or JSON.

    A block labelled `facts` is taken before others. Raises BadFactsError in the words of the person who wrote the prompt.
    """
    for message in reversed(user_messages):
        blocks = [(match["label"], match["body"]) for match in _BLOCK.finditer(message)]
        blocks = [block for block in blocks if block[0] == "facts"] or [block for block in blocks if block[0] in _LABELS]
        if blocks:
            return _validated(_mapping(blocks[-1][1]), kind)
    needed = ", ".join(kind.model_fields)
    raise BadFactsError(f"the prompt has no facts; write a block that begins with ```facts and gives, as YAML, some of: {needed}")


def _mapping(body: str) -> dict[str, Any]:
    try:
        value = yaml.safe_load(body)
    except yaml.YAMLError as error:
        raise BadFactsError(f"the facts are not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(value, dict):
        raise BadFactsError(f"the facts are a {type(value).__name__}; write `name: value` lines")
    return value


def _validated(value: dict[str, Any], kind: type[FactsT]) -> FactsT:
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        problems = [f"`{'.'.join(map(str, item['loc'])) or 'facts'}`: {item['msg']}" for item in error.errors()]
        raise BadFactsError("the facts cannot be used: " + "; ".join(problems)) from None
