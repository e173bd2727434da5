from typing import Any

import pytest

from agent_pipelines.core.errors import DefinitionError
from agent_pipelines.core.problems import DefinitionErrors
from agent_pipelines.registry.reading import read_spec

GOOD = {"name": "watch", "intent": "Watch it", "agent": "writer", "prompt": "Watch"}


def test_values_become_a_specification() -> None:
    spec = read_spec({**GOOD, "triggers": [{"kind": "interval", "every": "5s"}]})
    assert (spec.path, spec.triggers[0].kind) == ("default/watch", "interval")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ("watch", "tasks.yaml: is not a task but str. Write its fields"),
        ({**GOOD, "promt": "x"}, "tasks.yaml, field `promt`: `promt` is not a field here. Did you mean `prompt`?"),
        ({**GOOD, "triggers": [{"kind": "corn"}]}, "tasks.yaml, field `triggers[0]`: there is no kind 'corn'"),
        ({**GOOD, "triggers": [{"kind": "interval", "every": "0s"}]}, "field `triggers[0].every`: every 0 s is too short"),
        ({**GOOD, "pool": "x", "lane": "burst"}, "field `pool`: Dagster's pools limit runs"),
    ],
)
def test_what_is_wrong_names_the_field(values: Any, words: str) -> None:
    with pytest.raises(DefinitionError) as raised:
        read_spec(values, place="tasks.yaml")
    assert words in str(raised.value)


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(DefinitionErrors) as raised:
        read_spec({"name": "Watch", "agent": "writer", "retry": {"max_attempts": 0}})
    assert sorted(problem.field or "" for problem in raised.value.problems) == ["intent", "name", "retry.max_attempts"]
