from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from agent_pipelines.core.task import TaskSpec, schema_validator


def _spec(**changes: Any) -> TaskSpec:
    return TaskSpec.model_validate({"name": "digest", "intent": "Sum up the day", "agent": "writer", **changes})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"nmae": "x"}, "nmae"),
        ({"intent": ""}, "intent"),
        ({"name": "Daily Digest"}, "name"),
        ({"triggers": [{"kind": "cron", "cron": "61 * * * *"}]}, "not a cron expression that ever fires"),
        ({"triggers": [{"kind": "cron", "cron": "0 0 31 2 *"}]}, "not a cron expression that ever fires"),
        ({"triggers": [{"kind": "cron", "cron": "* * * * * *"}]}, "say with `seconds: first` or `seconds: last`"),
        ({"triggers": [{"kind": "cron", "cron": "0 6 * * *", "timezone": "Mars/Base"}]}, "not a time zone"),
        ({"triggers": [{"kind": "interval", "every": "100ms"}]}, "write 1s or more"),
        ({"triggers": [{"kind": "at", "at": "2027-01-01T09:00:00"}]}, "no UTC offset"),
        ({"triggers": [{"kind": "cron", "cron": "0 6 * * *"}, {"kind": "cron", "cron": "0 7 * * *"}]}, "two are named 'cron'"),
        ({"triggers": [{"kind": "after", "task": "digest"}]}, "after the task itself"),
        ({"triggers": [{"kind": "asset", "asset": "default/digest"}]}, "own asset"),
        ({"triggers": [{"kind": "sometimes"}]}, "sometimes"),
        ({"session": {"mode": "named"}}, "needs it"),
        ({"session": {"mode": "task", "name": "x"}}, "goes with mode `named`"),
        ({"output": {"schema": {"type": "strnig"}}}, "not a JSON Schema"),
        ({"output": {"schema": {"properties": {"a": {"$ref": "file:///etc/passwd"}}}}}, "leaves the schema"),
        ({"output": {"schema": {"$id": "http://127.0.0.1/", "anyOf": [{"$ref": "secrets"}]}}}, "leaves the schema"),
        ({"remember": ["baseline"]}, "declare `output"),
        ({"timeout": {"attempt": "2h", "total": "1h"}}, "longer than `total`"),
        ({"retry": {"errors": ["sunspots"]}}, "sunspots"),
        ({"checks": [{"name": "a", "python": "not a path"}]}, "python"),
        ({"checks": [{"name": "a", "python": "m:f"}, {"name": "a", "python": "m:g"}]}, "same name"),
    ],
)
def test_a_wrong_declaration_is_refused_in_words(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        _spec(**changes)
    assert words in str(caught.value)


def test_a_schema_opens_no_address(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text('{"type": "string"}')
    validator = schema_validator({"$ref": (tmp_path / "other.json").as_uri()})
    with pytest.raises(Exception, match="Unresolvable"):
        list(validator.iter_errors(1))


def test_the_hash_is_that_of_the_content() -> None:
    assert _spec().spec_hash == _spec(application="default", retry={}).spec_hash
    assert _spec().spec_hash != _spec(intent="Sum up the week").spec_hash


def test_a_declaration_survives_its_canonical_form() -> None:
    spec = _spec(
        triggers=[{"kind": "cron", "cron": "0 6 * * *"}, {"kind": "after", "task": "report", "offset": "15m"}],
        output={"schema": {"type": "object"}},
        remember=["baseline"],
    )
    again = TaskSpec.model_validate(spec.canonical())
    assert again == spec
    assert again.spec_hash == spec.spec_hash


def test_every_field_has_a_description() -> None:
    undescribed = [name for name, field in TaskSpec.model_fields.items() if not field.description]
    assert undescribed == []


def test_bare_names_mean_this_application() -> None:
    spec = _spec(application="morning", dependencies=["report", "sales/orders"])
    assert spec.dependency_paths == ("morning/report", "sales/orders")
