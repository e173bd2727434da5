from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_pipelines.context.templates import render
from agent_pipelines.context.window import Fitted, Parts, Section, estimate_tokens, fit
from agent_pipelines.core.errors import ErrorClass, ExecutionFailed, Stage
from agent_pipelines.core.invocation import Message
from agent_pipelines.core.task import WindowSpec

SECTIONS: tuple[Section, ...] = get_args(Section)
EVERYTHING = "{{ variables }}|{{ event }}|{{ state }}|{{ upstream }}"


def turns(number: int, size: int = 40) -> list[Message]:
    """Turns that say their number."""
    messages: list[Message] = []
    for index in range(number):
        text = f"{index}".ljust(size, ".")
        messages += [Message(role="user", content=text), Message(role="assistant", content=text)]
    return messages


def fitted(
    max_tokens: int,
    parts: Parts,
    history: list[Message] | None = None,
    *,
    prompt: str = EVERYTHING,
    system: str | None = None,
    keep: tuple[Any, ...] = ("variables", "event", "state", "upstream", "history"),
    unread_turns: int = 0,
) -> Fitted:
    def render_parts(parts: Parts) -> tuple[str | None, str]:
        values = {name: parts.get(name) for name in SECTIONS}
        return system, render(prompt, values, name="prompt", limit=100_000)

    return fit(WindowSpec(max_tokens=max_tokens, keep=keep), parts, history or [], render_parts, unread_turns=unread_turns)


@pytest.mark.parametrize(("text", "tokens"), [("", 0), ("a", 1), ("abcd", 1), ("abcde", 2)])
def test_a_token_is_estimated_for_each_four_characters(text: str, tokens: int) -> None:
    assert estimate_tokens(text) == tokens


def test_what_fits_is_left_as_it_is() -> None:
    result = fitted(1_000, {"event": {"a": 1}}, turns(3), system="Be brief.")
    assert result.trimmed == ()
    assert [message.role for message in result.messages] == ["system", *["user", "assistant"] * 3, "user"]
    assert result.messages[-1].content == 'null|{"a": 1}|null|null'
    assert result.tokens == sum(estimate_tokens(message.content) for message in result.messages)


def test_history_loses_its_oldest_turns_first() -> None:
    result = fitted(220, {"event": {"text": "x" * 40}}, turns(40))
    said = [message.content.rstrip(".") for message in result.messages[:-1:2]]
    assert said == [str(number) for number in range(40 - len(said), 40)]
    assert result.trimmed == (f"history: {40 - len(said)} of 40 turns left out",)
    assert len(said) == (220 - estimate_tokens(result.messages[-1].content)) // 20
    assert fitted(220, {}, turns(2), unread_turns=38).trimmed == ("history: 38 of 40 turns left out",)


def test_sections_are_cut_by_priority_and_no_more_than_needed() -> None:
    parts: Parts = {name: {"text": name[0] * 2_000, "id": name} for name in SECTIONS if name != "history"}
    result = fitted(1_700, parts, turns(4))
    assert result.trimmed[0] == "history: 4 of 4 turns left out"
    assert [line.split(".")[0] for line in result.trimmed[1:]] == ["upstream"]
    assert 1_690 < result.tokens <= 1_700
    text = result.messages[-1].content
    assert "v" * 2_000 in text
    assert "s" * 2_000 in text
    assert f"{'u' * 100}" in text
    assert "[... " in text
    assert '"id": "upstream"' in text


def test_a_user_decides_what_is_cut_first() -> None:
    parts: Parts = {"event": {"text": "e" * 2_000}, "upstream": {"app/a": {"text": "u" * 2_000}}}
    by_default = fitted(800, parts, turns(2))
    assert [line.split(":")[0] for line in by_default.trimmed] == ["history", "upstream.app/a.text"]
    event_first = fitted(800, parts, turns(2), keep=("history", "upstream", "variables", "state", "event"))
    assert [line.split(":")[0] for line in event_first.trimmed] == ["event.text"]


def test_sections_that_are_not_to_be_kept_are_cut_before_those_that_are() -> None:
    parts: Parts = {"event": {"text": "e" * 2_000}, "upstream": {"app/a": {"text": "u" * 2_000}}}
    result = fitted(800, parts, turns(2), keep=("history", "upstream"))
    assert [line.split(":")[0] for line in result.trimmed] == ["event.text"]
    assert [line.split(":")[0] for line in fitted(800, parts, turns(2), keep=()).trimmed] == ["history", "upstream.app/a.text"]


def test_the_longest_texts_of_a_section_are_shortened_first() -> None:
    event = {"long": "L" * 5_000, "longer": ["M" * 9_000], "short": "S" * 90}
    result = fitted(1_000, {"event": event})
    text = result.messages[-1].content
    kept = text.count("L")
    assert (text.count("M"), text.count("S")) == (kept, 90)
    assert f"{'L' * kept} [... {5_000 - kept} of 5000 characters left out]" in text
    assert result.trimmed == (
        f"event.longer[0]: {9_000 - kept} of 9000 characters left out",
        f"event.long: {5_000 - kept} of 5000 characters left out",
    )


def test_lists_lose_their_ends_when_texts_are_short_and_the_agent_is_told() -> None:
    rows: list[Any] = [{"id": number, "name": f"row {number}"} for number in range(5_000)]
    prompt = "Check:{% for row in event.rows %}\n{{ row.id }} {{ row.name }}{% endfor %}"
    result = fitted(500, {"event": {"rows": rows}}, prompt=prompt)
    text = result.messages[-1].content
    kept = text.count("row ")
    assert f"\n{kept - 1} row {kept - 1}\n" in text
    assert text.endswith(f"[Items left out of lists that were too long: event.rows, {5_000 - kept} of 5000]")
    assert result.trimmed == (f"event.rows: {5_000 - kept} of 5000 items left out",)
    assert 490 < result.tokens <= 500


def test_what_a_template_needs_is_not_cut() -> None:
    parts: Parts = {"event": {"rows": [1, 2, 3, 4], "text": "x" * 1_000}}
    result = fitted(100, parts, prompt="{{ event.rows[3] }} {{ event.text }}")
    assert result.messages[-1].content.startswith("4 xxx")
    assert [line.split(":")[0] for line in result.trimmed] == ["event.text"]


def test_what_the_prompt_does_not_use_is_not_cut() -> None:
    parts: Parts = {"event": {"text": "x" * 4_000}, "upstream": {"app/a": "u" * 4_000}}
    result = fitted(100, parts, prompt="{{ event.text }}")
    assert [line.split(":")[0] for line in result.trimmed] == ["event.text"]


def test_a_text_that_a_template_may_not_even_make_is_cut() -> None:
    result = fitted(1_000, {"event": {"text": "x" * 3_000_000}})
    assert 990 < result.tokens <= 1_000
    assert result.trimmed[0].startswith("event.text: 299")


def test_only_the_largest_cuts_are_told_one_by_one() -> None:
    event: Any = {f"t{number}": "x" * (1_000 + number) for number in range(20)}
    trimmed = fitted(1_000, {"event": event}).trimmed
    assert [line.split(":")[0] for line in trimmed[:-1]] == [f"event.t{number}" for number in (19, 18, 17, 16, 15)]
    assert trimmed[-1] == "event: 15 more texts or lists cut"


@pytest.mark.parametrize(("system", "prompt"), [("s" * 800, "p"), ("s", "p" * 800), (None, "{{ event.text }}" + "p" * 400)])
def test_a_prompt_that_is_too_long_by_itself_is_refused(system: str | None, prompt: str) -> None:
    with pytest.raises(ExecutionFailed, match=r"^window: the prompt needs about \d+ tokens .* `max_tokens` allows 64") as caught:
        fitted(64, {"event": {"text": "x" * 1_000}}, turns(3), system=system, prompt=prompt)
    assert (caught.value.error_class, caught.value.stage) == (ErrorClass.CONTEXT, Stage.COMPOSE)


def test_a_template_that_cannot_be_rendered_is_not_cut_until_it_can() -> None:
    with pytest.raises(ExecutionFailed, match="has no attribute 'missing'"):
        fitted(64, {"event": {"text": "x" * 1_000}}, prompt="{{ event.text }}{{ event.missing }}")
    with pytest.raises(ExecutionFailed, match="needs far more tokens"):
        fitted(64, {}, prompt="{% for a in range(100000) %}xx{% endfor %}")


texts = st.integers(0, 400).map(lambda size: "word " * size)
json_values = st.recursive(
    st.none() | st.integers(0, 9) | texts,
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.sampled_from("abcdef"), inner, max_size=4),
    max_leaves=12,
)
all_parts = st.fixed_dictionaries({name: json_values for name in SECTIONS if name != "history"})


@settings(max_examples=150, deadline=None)
@given(
    parts=all_parts,
    number=st.integers(0, 12),
    size=st.integers(0, 300),
    max_tokens=st.integers(64, 2_000),
    keep=st.permutations(SECTIONS).flatmap(lambda order: st.integers(0, 5).map(lambda count: tuple(order[:count]))),
)
def test_the_bound_always_holds(parts: Parts, number: int, size: int, max_tokens: int, keep: tuple[Section, ...]) -> None:
    history = turns(number, size)
    try:
        result = fitted(max_tokens, parts, history, keep=keep, system="Be brief.")
    except ExecutionFailed:
        return
    assert sum(estimate_tokens(message.content) for message in result.messages) == result.tokens <= max_tokens
    assert result == fitted(max_tokens, parts, history, keep=keep, system="Be brief.")
    said = list(result.messages[1:-1])
    assert said == history[len(history) - len(said) :], "the newest turns are kept, in order"
    assert (result.trimmed == ()) == (fitted(1_000_000, parts, history, keep=keep, system="Be brief.") == result)
