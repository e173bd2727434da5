import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from agent_pipelines.core.duration import Duration


class _Model(BaseModel):
    wait: Duration


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        (90, 90),
        (0.5, 0.5),
        ("90s", 90),
        ("15m", 900),
        ("1h 30m", 5_400),
        ("1.5h", 5_400),
        ("2d", 172_800),
        ("250ms", 0.25),
        ("1w", 604_800),
    ],
)
def test_durations_as_people_write_them(written: object, seconds: float) -> None:
    assert _Model.model_validate({"wait": written}).wait == seconds


@pytest.mark.parametrize("written", ["", "15", "soon", "-1m", -1, "1y", True, None, float("inf"), float("nan"), "1h garbage"])
def test_anything_else_is_refused_with_examples(written: object) -> None:
    with pytest.raises(ValidationError, match="not a duration"):
        _Model.model_validate({"wait": written})


@given(st.floats(min_value=0, max_value=1e9))
def test_a_number_of_seconds_survives_json(seconds: float) -> None:
    model = _Model.model_validate({"wait": seconds})
    assert _Model.model_validate_json(model.model_dump_json()).wait == model.wait


def test_the_json_schema_admits_numbers_and_texts() -> None:
    options = _Model.model_json_schema()["properties"]["wait"]["anyOf"]
    assert {option["type"] for option in options} == {"number", "string"}
