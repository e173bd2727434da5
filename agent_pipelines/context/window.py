"""Cutting what an agent is given to the size that its task allows."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from pydantic import JsonValue

from agent_pipelines.context.templates import TooLong
from agent_pipelines.core.errors import ErrorClass, ExecutionFailed, Stage
from agent_pipelines.core.invocation import Message
from agent_pipelines.core.task import WindowSpec

Section = Literal["variables", "event", "state", "upstream", "history"]
"""What fills a prompt and may be cut, by priority; the last is cut first."""

Parts = Mapping[Section, JsonValue]
"""The values of the sections; `history` is apart."""

Render = Callable[[Parts], tuple[str | None, str]]
"""Makes the system text and the user's message of the parts."""

_SHORT = 80  # characters; below that, texts are cut only after lists
_NAMED = 5  # cuts of a section that are told one by one


@dataclass(frozen=True)
class Fitted:
    """Messages within the bound, their size in estimated tokens, and what was left out for it."""

    messages: tuple[Message, ...]
    tokens: int
    trimmed: tuple[str, ...]


@dataclass(frozen=True)
class _Loss:
    path: str
    left_out: int
    total: int
    unit: Literal["characters", "items"]

    def __str__(self) -> str:
        return f"{self.path}: {self.left_out} of {self.total} {self.unit} left out"


@dataclass(frozen=True)
class _Draft:
    parts: Parts
    system: str | None
    user: str
    losses: Mapping[Section, tuple[_Loss, ...]]

    @property
    def tokens(self) -> int:
        return estimate_tokens(self.system or "") + estimate_tokens(self.user)


def estimate_tokens(text: str) -> int:
    """Tokens of a text, estimated: one for each four characters begun.

    No tokenizer is asked. About right for English, high for most code, and up to four times too low for Chinese or Japanese.
    """
    return math.ceil(len(text) / 4)


def fit(window: WindowSpec, parts: Parts, history: Sequence[Message], render: Render, *, unread_turns: int = 0) -> Fitted:
    """Make the messages of a prompt, cut by the declared priority until they are within the bound.

    Sections that `window.keep` does not name are cut before those that it names. History loses its oldest turns. Of another
    section the longest texts are shortened, each with a mark that says by how much; if that is not enough, its longest lists
    lose their ends, which a last line of the message says. `history` alternates between user and assistant, `unread_turns`
    older ones were not even read. Raises ExecutionFailed (context, compose) if everything is cut and it is still too much.
    """
    turns = [history[start : start + 2] for start in range(0, len(history), 2)]
    costs = [sum(estimate_tokens(message.content) for message in turn) for turn in turns]
    first = 0
    room = window.max_tokens - sum(costs)  # that history leaves to the rest
    draft = _draft(parts, {}, render)
    for section in _cut_order(window):
        if draft is not None and draft.tokens <= room:
            break
        if section == "history":
            while first < len(turns) and (draft is None or draft.tokens > room):
                room += costs[first]
                first += 1
        else:
            draft = _shorten(section, draft, parts if draft is None else draft.parts, render, room)
    if draft is None or draft.tokens > room:
        needed = "far more" if draft is None else f"about {draft.tokens}"
        raise ExecutionFailed(
            ErrorClass.CONTEXT,
            Stage.COMPOSE,
            f"window: the prompt needs {needed} tokens after everything was cut that may be, `max_tokens` allows "
            f"{window.max_tokens}; shorten `system` and `prompt`, give the agent less, or allow more",
        )
    messages = [Message(role="user", content=draft.user)]
    messages[:0] = [message for turn in turns[first:] for message in turn]
    if draft.system is not None:
        messages.insert(0, Message(role="system", content=draft.system))
    trimmed: list[str] = []
    if first + unread_turns:
        trimmed.append(f"history: {first + unread_turns} of {len(turns) + unread_turns} turns left out")
    for section, losses in draft.losses.items():
        trimmed += _told(section, losses)
    return Fitted(tuple(messages), draft.tokens + sum(costs[first:]), tuple(trimmed))


def _cut_order(window: WindowSpec) -> list[Section]:
    unnamed: list[Section] = [section for section in get_args(Section) if section not in window.keep]
    return [*reversed(unnamed), *reversed(window.keep)]


def _draft(parts: Parts, losses: Mapping[Section, tuple[_Loss, ...]], render: Render) -> _Draft | None:
    """Render; None if the text is longer than a template may make it."""
    try:
        system, user = render(parts)
    except TooLong:
        return None
    lists = [f"{loss.path}, {loss.left_out} of {loss.total}" for of in losses.values() for loss in of if loss.unit == "items"]
    if lists:
        more = f"; and of {len(lists) - _NAMED} more lists" if len(lists) > _NAMED else ""
        user += f"\n\n[Items left out of lists that were too long: {'; '.join(lists[:_NAMED])}{more}]"
    return _Draft(parts, system, user, losses)


def _shorten(section: Section, draft: _Draft | None, parts: Parts, render: Render, room: int) -> _Draft | None:
    """Cut a section as little as gets the draft into the room, or as much as can be; not at all where that saves nothing."""
    value = parts.get(section)
    longest_text, longest_list = _longest(value)
    if longest_text == 0 and longest_list <= 1:
        return draft
    losses: Mapping[Section, tuple[_Loss, ...]] = {} if draft is None else draft.losses

    def at(step: int, most: int) -> _Draft | None:
        cuts: list[_Loss] = []
        shorter = _cut(value, section, *_lengths(step, longest_text, most), cuts)
        try:
            return _draft({**parts, section: shorter}, {**losses, section: tuple(cuts)}, render)
        except ExecutionFailed:
            return None  # the template needs what was cut

    for most in (longest_list, 1) if longest_list > 1 else (1,):
        least = at(0, most)
        if least is None:
            continue
        if draft is not None and least.tokens >= draft.tokens:
            return draft
        if least.tokens > room:
            return least
        fitting, steps = 0, longest_text + most - 1
        while steps - fitting > 1:
            middle = (fitting + steps) // 2
            candidate = at(middle, most)
            if candidate is not None and candidate.tokens <= room:
                fitting, least = middle, candidate
            else:
                steps = middle
        return least
    return draft


def _lengths(step: int, longest_text: int, longest_list: int) -> tuple[int, int | None]:
    """Characters of a text and items of a list that are kept at a step; the last step keeps everything.

    Going down, texts are shortened to `_SHORT`, then lists to one item, then texts to nothing: an empty list would take away
    what a template may take from every list.
    """
    short = min(_SHORT, longest_text)
    if longest_list <= 1:
        return step, None
    if step <= short:
        return step, 1
    if step < short + longest_list:
        return short, 1 + step - short
    return step - longest_list + 1, longest_list


def _longest(value: JsonValue) -> tuple[int, int]:
    """Characters of the longest text and items of the longest list in a value."""
    if isinstance(value, str):
        return len(value), 0
    parts = value if isinstance(value, list) else list(value.values()) if isinstance(value, dict) else []
    sizes = [(0, len(value) if isinstance(value, list) else 0), *(_longest(part) for part in parts)]
    return max(text for text, _ in sizes), max(items for _, items in sizes)


def _cut(value: JsonValue, path: str, characters: int, items: int | None, losses: list[_Loss]) -> JsonValue:
    if isinstance(value, str):
        left_out = len(value) - characters
        shorter = f"{value[:characters]} [... {left_out} of {len(value)} characters left out]"
        if len(shorter) >= len(value):
            return value
        losses.append(_Loss(path, left_out, len(value), "characters"))
        return shorter
    if isinstance(value, list):
        if items is not None and len(value) > items:
            losses.append(_Loss(path, len(value) - items, len(value), "items"))
        return [_cut(item, f"{path}[{index}]", characters, items, losses) for index, item in enumerate(value[:items])]
    if isinstance(value, dict):
        return {key: _cut(item, f"{path}.{key}", characters, items, losses) for key, item in value.items()}
    return value


def _told(section: Section, losses: Sequence[_Loss]) -> list[str]:
    by_size = sorted(losses, key=lambda loss: -loss.left_out)
    more = [f"{section}: {len(losses) - _NAMED} more texts or lists cut"] if len(losses) > _NAMED else []
    return [*map(str, by_size[:_NAMED]), *more]
