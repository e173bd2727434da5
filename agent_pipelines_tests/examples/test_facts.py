from datetime import date

import pytest

from examples.agents.facts import BadFactsError, Facts, read_facts


class NightFacts(Facts):
    night: date
    columns: list[str] = []


@pytest.mark.parametrize(
    "prompt",
    [
        "Check.\n```facts\nnight: 2013-02-08\ncolumns: [a, b]\n```\nThanks.",
        'Check.\n\n  ```json\n  {"night": "2013-02-08", "columns": ["a", "b"]}\n  ```',
        "As a rule:\n```python\nnight = 1\n```\nnow\n```facts\nnight: '2013-02-08'\ncolumns:\n- a\n- b\n```\n```yaml\nx: 1\n```",
        '```facts\r\nnight: 2013-02-08\r\ncolumns: ["a", "b"]\r\n```',
    ],
)
def test_facts_are_found_in_a_prompt(prompt: str) -> None:
    assert read_facts([prompt], NightFacts) == NightFacts(night=date(2013, 2, 8), columns=["a", "b"])


def test_the_newest_message_with_facts_counts() -> None:
    older, newer = "```facts\nnight: 2013-02-07\n```", "```facts\nnight: 2013-02-08\n```"

    assert read_facts([older, newer, "and now?"], NightFacts).night == date(2013, 2, 8)


def test_a_text_with_a_fence_inside_is_one_value() -> None:
    class Report(Facts):
        report: str

    assert read_facts(['```facts\nreport: "one\\n```\\ntwo \\u003c"\n```'], Report).report == "one\n```\ntwo <"


@pytest.mark.parametrize(
    ("prompt", "problem"),
    [
        ("no block at all", "has no facts; write a block that begins with ```facts and gives, as YAML, some of: night, columns"),
        ("```facts\nnight: [\n```", "the facts are not YAML"),
        ("```facts\n- night\n```", "the facts are a list; write `name: value` lines"),
        ("```facts\nnight: someday\n```", "`night`: Input should be a valid date"),
        ("```facts\ncolumns: []\n```", "`night`: Field required"),
        ("```facts\nnight: 2013-02-08\nnigth: 1\n```", "`nigth`: Extra inputs are not permitted"),
    ],
)
def test_what_is_wrong_is_said(prompt: str, problem: str) -> None:
    with pytest.raises(BadFactsError) as caught:
        read_facts([prompt], NightFacts)
    assert problem in str(caught.value)
