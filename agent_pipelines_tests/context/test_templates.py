from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_pipelines.context.templates import TEMPLATE_NAMES, TooLong, check_template, render, render_value
from agent_pipelines.core.errors import DefinitionError, ErrorClass, ExecutionFailed, Stage
from agent_pipelines.core.secrets import redactor

NAMES = TEMPLATE_NAMES | {"commit", "region"}


def check(text: str) -> None:
    check_template(
        text, names=NAMES, state_names=("baseline", "seen"), upstream_paths=("app/report",), field="prompt", file="defs.yaml"
    )


@pytest.mark.parametrize(
    "text",
    [
        "plain { text }",
        "{{ commit }} {{ event.anything.at[0].all }} {{ logical_time }} {{ range(3) | join }}",
        "{{ state.baseline }} {{ state['seen'] }} {{ state.get('seen', 1) }} {% for k, v in state.items() %}{{ k }}{% endfor %}",
        "{{ upstream['app/report'].total }} {{ upstream.get(\"app/report\") }} {{ upstream[region] }}",
        "{% for item in event.files %}{{ loop.index }} {{ item }}{% endfor %}{% set total = 1 %}{{ total }}",
        "{% for state in event.states %}{{ state.name }}{% endfor %}",
        "{% macro line(x) %}- {{ x }}{% endmacro %}{{ line(commit) }}{% raw %}{{ nothing }}{% endraw %}",
    ],
)
def test_templates_that_can_work_pass(text: str) -> None:
    check(text)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a\n{{ comit }}", r"defs.yaml, field `prompt`: line 2: `comit` is not a name .* Did you mean `commit`\? There is: `app"),
        (
            "{{ nothing_like_it }}",
            r"line 1: `nothing_like_it` is not a name that this template can use\. There is: `application`",
        ),
        ("{% if true %}\n{% endfor %}", "line 2: not a template: Encountered unknown tag 'endfor'"),
        ("{{ commit", "line 1: not a template: unexpected end of template"),
        ("{{ commit | uper }}", "line 1: not a template: No filter named 'uper'"),
        ("\n\n{{ state.basline }}", r"line 3: `state.basline` is not among .* `remember` declares\. Did you mean `baseline`\?"),
        ("{{ state['old'] }}", "`state.old` is not among"),
        ("{{ state.get('old') }}", "`state.old` is not among"),
        ("{{ state.items }}", "`state.items` is not among"),
        ("{{ upstream['app/raport'] }}", r"upstream\['app/raport'\] is not a dependency .* mean upstream\['app/report'\]\?"),
        ("{{ upstream.report }}", r"upstream\['report'\] is not a dependency .* Did you mean upstream\['app/report'\]\?"),
        ("{% include 'secrets.txt' %}", "line 1: a template cannot include"),
        ("{% extends 'base' %}", "line 1: a template cannot include"),
        ("{{ lipsum() }}", "`lipsum` is not a name"),
        ("a\nb\0", "line 2: contains a NUL character; remove it"),
        ("\ud800", "line 1: contains half of a surrogate pair"),
    ],
)
def test_templates_that_cannot_work_say_why(text: str, problem: str) -> None:
    with pytest.raises(DefinitionError, match=problem) as caught:
        check(text)
    assert (caught.value.field, caught.value.file) == ("prompt", "defs.yaml")


def test_undeclared_state_and_dependencies_say_what_to_declare() -> None:
    with pytest.raises(DefinitionError, match=r"Declare it: `remember: \[baseline\]`"):
        check_template("{{ state.baseline }}", names=NAMES, field="prompt")
    with pytest.raises(DefinitionError, match=r"Add it: `dependencies: \[app/report\]`"):
        check_template("{{ upstream['app/report'] }}", names=NAMES, field="prompt")


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("{{ event.text }} & <b>\n", "<i> & <b>"),
        ("{{ event.rows }}", '[{"ä": 1.5}, null]'),
        ("{{ event.rows | tojson(indent=1) }}", '[\n {\n  "ä": 1.5\n },\n null\n]'),
        ("{{ event.open }} {{ event.none }} {{ event.count }}", "true null 3"),
        ("{{ event.items }} {{ event.keys() | list }}", '7 ["text", "rows", "open", "none", "count", "items"]'),
        ("{% if event.missing is defined %}yes{% else %}no{% endif %}", "no"),
        ("{{ event.missing | default('none') }}", "none"),
        ("{{ 'ab' * 3 }} {{ 2 ** 10 }} {{ 3 * 4 }}", "ababab 1024 12"),
    ],
)
def test_values_are_written_as_text_and_json(text: str, written: str) -> None:
    event = {"text": "<i>", "rows": [{"ä": 1.5}, None], "open": True, "none": None, "count": 3, "items": 7}
    assert render(text, {"event": event}) == written


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a\n\n{{ commit }}", r"^prompt of app/job, line 3: 'commit' is undefined; give it a value when launching"),
        ("{{ event.commit }}", "line 1: 'dict object' has no attribute 'commit'"),
        ("{{ nothing.commit }}", "'None' has no attribute 'commit'; what is none has no fields"),
        ("{{ ['a', commit] }}", "'commit' is undefined"),
        ("{{ event.keys }}", r"type builtin_function_or_method cannot be written; call it, or add `\| list`"),
        ("{{ ''.__class__.__mro__ }}", "attribute '__class__' of 'str' object is unsafe"),
        ("{{ event['__class__'] }}", "unsafe"),
        ("{{ xs.append(2) }}", "'append' of 'list' object is unsafe"),
        ("{{ event.update(a=1) }}", "'update' of 'dict' object is unsafe"),
        ("{{ '{0.__class__}'.format(event) }}", "unsafe"),
        ("{% for i in range(100001) %}{% endfor %}", "Range too big"),
        ("{{ 'x' * 10000000000 }}", "repeated 10000000000 times is longer than 1,000,000"),
        ("{{ 10000000000 * ['x'] }}", "repeated"),
        ("{{ 9 ** (9 ** 9) }}", "more than 100,000 bits"),
        ("{{ 1 // 0 }}", "zero"),
        ("{{ commit(", "unexpected"),
        ("{% include 'x' %}", "no loader"),
    ],
)
def test_what_cannot_be_rendered_says_why(text: str, problem: str) -> None:
    values: dict[str, Any] = {"event": {}, "nothing": None, "xs": [1]}
    with pytest.raises(ExecutionFailed, match=problem) as caught:
        render(text, values, name="prompt of app/job")
    assert (caught.value.error_class, caught.value.stage) == (ErrorClass.CONTEXT, Stage.COMPOSE)
    assert values == {"event": {}, "nothing": None, "xs": [1]}


def test_constants_are_not_computed_outside_of_the_bounds_when_a_task_is_loaded() -> None:
    check("{{ 'x' * 10000000000 }}{{ 9 ** (9 ** 9) }}{{ range(10000000000) | list }}")


def test_output_is_refused_while_it_is_made() -> None:
    with pytest.raises(TooLong, match="prompt: the text is longer than 1,000 characters"):
        render("{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}", {}, name="prompt", limit=1_000)
    assert len(render("{{ 'x' * 1000 }}", {}, limit=1_000)) == 1_000


def test_errors_hold_no_secret() -> None:
    redactor.register("correct-horse-battery")
    with pytest.raises(ExecutionFailed) as caught:
        render("{{ event.n['correct-horse-battery'] }}", {"event": {"n": {}}})
    assert "correct-horse-battery" not in str(caught.value)


def test_what_a_value_says_is_never_a_template() -> None:
    values = {"event": {"text": "{{ secret }} {% if %}"}, "secret": "s3cret"}
    assert render("{{ event.text }}", values) == "{{ secret }} {% if %}"
    assert render_value(["{{ event.text }}", "a {{ event.text }}"], values) == [
        "{{ secret }} {% if %}",
        "a {{ secret }} {% if %}",
    ]


def test_single_expressions_keep_the_kind_of_their_value() -> None:
    values = {"event": {"commit": "12", "files": ["a", "b"], "size": 3, "draft": None}}
    declared = {
        "commit": "{{ event.commit }}",
        "files": "{{ event.files }}",
        "text": " {{ event.size }}",
        "size": "{{- event.size -}}",
        "more": [{"first": "{{ event.files[0] }}"}, 7, None, "plain", ""],
        "draft": "{{ event.draft }}",
        "upper": "{{ event.files | map('upper') | list }}",
    }
    assert render_value(declared, values) == {
        "commit": "12",
        "files": ["a", "b"],
        "text": " 3",
        "size": 3,
        "more": [{"first": "a"}, 7, None, "plain", ""],
        "draft": None,
        "upper": ["A", "B"],
    }


@pytest.mark.parametrize(
    "text", ["{{ event.missing }}", "x{{ event.missing }}", "{{ event.files | map('upper') }}", "{{ range }}"]
)
def test_a_value_that_cannot_be_rendered_is_named(text: str) -> None:
    with pytest.raises(ExecutionFailed, match=r"^variables\.a\[1\].*: ") as caught:
        render_value({"a": [1, text]}, {"event": {"files": ["a"]}}, name="variables")
    assert caught.value.error_class == ErrorClass.CONTEXT


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(json_values)
def test_any_value_passes_through_unchanged(value: Any) -> None:
    assert render_value("{{ event }}", {"event": value}) == value
    if isinstance(value, str):
        assert render("{{ event }}", {"event": value}) == value
