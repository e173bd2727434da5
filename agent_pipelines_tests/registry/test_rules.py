from typing import Any

import pytest

from agent_pipelines.core.clock import ManualClock
from agent_pipelines.core.secrets import redactor
from agent_pipelines.registry.rules import Rules
from agent_pipelines_tests.registry.conftest import DECLARED, every_minute, spec

RULES = Rules(DECLARED, {("default", "inbox", "other")}, ManualClock().now())
KEY = "sk-verysecretkey0123456789"

# What is written, the field that is named, and words of the problem and of the way out.
REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"agent": "wrighter"}, "agent", "no agent `wrighter` is declared. Did you mean `writer`?"),
    ({"agent": "somebody"}, "agent", "There is: inspector, writer"),
    ({"checks": [{"name": "c", "python": "acme.checks:adds_pu"}]}, "checks[0].python", "Did you mean `acme.checks:adds_up`?"),
    ({"checks": [{"name": "c", "python": "os:system"}]}, "checks[0].python", "a registered one brings no code"),
    ({"gate": "os:remove"}, "gate", "no declared task has `os:remove`"),
    ({"output": {"schema_file": "/etc/passwd"}}, "output.schema_file", "a registered task reads no file"),
    ({"prompt": None}, "prompt", "is missing. Write the text itself"),
    ({"name": "digest", "application": "reports"}, "name", "task reports/digest is declared in the project"),
    ({"workspace": "labs"}, "workspace", "there is no workspace `labs`. Did you mean `lab`?"),
    ({"triggers": [{"kind": "after", "task": "nothing"}]}, "triggers[0].task", "there is no task `inbox/nothing`"),
    ({"triggers": [{"kind": "after", "task": "reports/digets"}]}, "triggers[0].task", "Did you mean `reports/digest`?"),
    ({"triggers": [{"kind": "after", "task": "sales/orders"}]}, "triggers[0].task", "there is no task `sales/orders`"),
    ({"triggers": [{"kind": "asset", "asset": "sales/order"}]}, "triggers[0].asset", "Did you mean `sales/orders`?"),
    ({"triggers": [{"kind": "asset", "asset": "inbox/other"}]}, "triggers[0].asset", "Write a trigger of kind `after`"),
    ({"dependencies": ["reports/digets"]}, "dependencies[0]", "Did you mean `reports/digest`?"),
    ({"batch": {"items": {"file": "x.csv"}}}, "batch", "a registered task has not"),
    ({"lane": "run"}, "lane", "a registered task shares runs with others"),
    ({"pool": "models"}, "pool", "registered tasks share runs"),
    ({"triggers": [every_minute(name="repair")]}, "triggers[0].name", "the name `repair` is kept for the ticks of repairs"),
    ({"triggers": [every_minute(name="on_demand")]}, "triggers[0].name", "kept for launches on demand"),
    ({"triggers": [every_minute(), {"kind": "at", "at": "2020-01-01T00:00:00Z"}]}, "triggers[1]", "is never due again"),
    ({"triggers": [every_minute(ends_at="2020-01-01T00:00:00Z")]}, "triggers[0]", "is never due again"),
    ({"prompt": "{{ topic"}, "prompt", "line 1: not a template"),
    ({"prompt": "{{ topic }}"}, "prompt", "`topic` is not a name that this template can use"),
    ({"system": "{% include '/etc/passwd' %}"}, "system", "a template cannot include"),
    ({"deduplicate_by": "{{ commit }}"}, "deduplicate_by", "`commit` is not a name"),
    ({"triggers": [every_minute(variables={"topic": "{{ event.x }}"})]}, "triggers[0].variables.topic", "`event` is not a name"),
    ({"fallback": [{"agent": "nobody"}]}, "fallback[0].agent", "no agent `nobody` is declared"),
    ({"degrade": [{"to": "task", "task": "none/such"}]}, "degrade[0].task", "no task `none/such` is declared"),
    ({"variables": {"key": KEY}}, "variables.key", "holds a secret"),
    ({"prompt": f"Log in with {KEY} and look around"}, "prompt", "holds a secret"),
    ({"variables": {"list": [{"deep": f"Bearer {KEY}"}]}}, "variables.list[0].deep", "holds a secret"),
    ({"tags": {"url": "https://kim:secret@example.com"}}, "tags.url", "holds a secret"),
    ({"variables": {"by_key": {KEY: 1}}}, "variables.by_key", "holds a secret"),
]


def problems(**fields: Any) -> list[tuple[str | None, str]]:
    return [(problem.field, str(problem)) for problem in RULES.problems(spec(**fields), place="tasks.yaml")]


@pytest.mark.parametrize(("fields", "field", "words"), REFUSED, ids=lambda value: str(value)[:60])
def test_refused(fields: dict[str, Any], field: str, words: str) -> None:
    ((named, told),) = problems(**fields)
    assert named == field
    assert told.startswith(f"tasks.yaml, field `{field}`: ")
    assert words in told


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"lane": "burst"},
        {"workspace": "lab"},
        {"agent": "inspector", "gate": "acme.gates:is_open", "checks": [{"name": "c", "python": "acme.checks:adds_up"}]},
        {"triggers": [{"kind": "after", "task": "other"}, {"kind": "after", "name": "b", "task": "reports/digest"}]},
        {"triggers": [{"kind": "asset", "asset": "sales/orders"}], "dependencies": ["sales/orders", "other"]},
        {"triggers": [{"kind": "at", "at": "2020-01-01T00:00:00Z", "enabled": False}]},
        {"prompt": "{{ topic }}", "triggers": [{"kind": "event", "event": "e", "variables": {"topic": "{{ event.topic }}"}}]},
        {"output": {"schema": {"type": "object"}}, "remember": ["baseline"]},
    ],
    ids=str,
)
def test_allowed(fields: dict[str, Any]) -> None:
    assert problems(**fields) == []


def test_a_known_secret_is_found_whatever_its_shape() -> None:
    redactor.register("correct horse battery")
    ((field, _),) = problems(intent="Say correct horse battery")
    assert field == "intent"


def test_everything_is_told_at_once() -> None:
    found = problems(agent="nobody", prompt="{{ topic }}", system="{{ other }}", lane="run", gate="os:remove")
    assert sorted(field or "" for field, _ in found) == ["agent", "gate", "lane", "prompt", "system"]
