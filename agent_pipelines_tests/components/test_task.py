import json

import dagster as dg
import jsonschema
import pytest
import yaml

from agent_pipelines import AgentTask, Cron, DefinitionError, Event
from agent_pipelines.components.task import TaskAttributes
from agent_pipelines.core.errors import ErrorClass
from agent_pipelines.core.problems import DefinitionErrors
from agent_pipelines.core.task import TaskSpec
from agent_pipelines.engine.project_tree import ProjectTree
from agent_pipelines_tests.components.project import Project


def _load(project: Project) -> AgentTask:
    loaded, problems = ProjectTree.for_project(project.root).load_all(AgentTask)
    if problems:
        raise problems[0]
    [(task, _)] = loaded
    return task


def test_name_and_prompt_default_to_folder_and_file(project: Project) -> None:
    task = _load(project.task("daily_digest", prompt="Sum up {{ logical_time }}\n"))
    assert task.name == "daily_digest"
    assert task.prompt == "Sum up {{ logical_time }}\n"
    assert task.source.where(("prompt",)).endswith("defs/daily_digest/prompt.md")
    assert task.source.where(("agent",)).endswith("defs/daily_digest/defs.yaml:4")


def test_a_written_prompt_goes_before_the_file(project: Project) -> None:
    assert _load(project.task("digest", "prompt: Here", prompt="There")).prompt == "Here"


def test_templates_of_ours_are_left_alone(project: Project) -> None:
    task = _load(
        project.task(
            "digest",
            """
            prompt: "{{ day }} and {{ commit }}"
            system: "{{ day }}"
            deduplicate_by: "{{ commit }}"
            variables: {day: "{{ not.ours }}", nested: {list: ["{{ x }}"]}}
            triggers:
              - kind: event
                event: push
                variables: {commit: "{{ event.commit }}", all: ["{{ event.files }}", {deep: "{% if x %}{% endif %}"}]}
            output: {schema: {type: string, pattern: "^{{"}}
            """,
        )
    )
    assert task.prompt == "{{ day }} and {{ commit }}"
    assert task.system == "{{ day }}"
    assert task.deduplicate_by == "{{ commit }}"
    assert task.variables == {"day": "{{ not.ours }}", "nested": {"list": ["{{ x }}"]}}
    trigger = task.triggers[0]
    assert isinstance(trigger, Event)
    assert trigger.variables == {
        "commit": "{{ event.commit }}",
        "all": ["{{ event.files }}", {"deep": "{% if x %}{% endif %}"}],
    }
    assert task.output.schema_ == {"type": "string", "pattern": "^{{"}


def test_templates_of_dagster_work_everywhere_else(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIGEST_CRON", "5 4 * * *")
    monkeypatch.setenv("DIGEST_PRIORITY", "7")
    task = _load(
        project.task(
            "digest",
            """
            priority: "{{ env.DIGEST_PRIORITY }}"
            triggers: [{kind: cron, cron: "{{ env.DIGEST_CRON }}"}]
            """,
        )
    )
    assert task.priority == 7
    assert task.triggers == (Cron(cron="5 4 * * *"),)


def test_plain_texts_stay_texts(project: Project) -> None:
    task = _load(project.task("digest", "tags: {year: '2024', answer: 'None'}"))
    assert task.tags == {"year": "2024", "answer": "None"}


@pytest.mark.parametrize(
    ("attributes", "field", "words"),
    [
        ("emits: 'made {{ nmae }}'", "emits", "`nmae` is not a name"),
        ("emits: '{{ env.SURELY_NOT_SET }}'", "emits", "Set the environment variable"),
        ("emits: '{{ oops'", "emits", "not a template"),
    ],
)
def test_a_template_without_a_value_is_refused(project: Project, attributes: str, field: str, words: str) -> None:
    with pytest.raises(DefinitionError, match=words) as caught:
        _load(project.task("digest", attributes))
    assert caught.value.field == field
    assert "defs/digest/defs.yaml:5" in str(caught.value)


def test_error_classes_of_the_retry_policy_have_a_key_that_yaml_reads(project: Project) -> None:
    assert _load(project.task("digest", "retry:\n  errors: [timeout]")).retry.errors == (ErrorClass.TIMEOUT,)


@pytest.mark.parametrize(("name", "text"), [("schema.json", '{"type": "object"}'), ("schema.yaml", "type: object")])
def test_the_schema_comes_from_its_file(project: Project, name: str, text: str) -> None:
    project.task("digest", f"output: {{schema_file: {name}}}").file(f"digest/{name}", text)
    task = _load(project)
    assert task.output.schema_ == {"type": "object"}
    assert task.output.is_json


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "there is no file schema.json. Write schema.json beside the task"),
        ("{", "schema.json cannot be parsed"),
        ("[]", "schema.json holds no JSON Schema but list"),
        ('{"type": "strnig"}', "not a JSON Schema at $.type"),
    ],
)
def test_a_schema_file_that_is_none_is_refused(project: Project, text: str | None, words: str) -> None:
    project.task("digest", "output: {schema_file: schema.json}")
    if text is not None:
        project.file("digest/schema.json", text)
    with pytest.raises(DefinitionError) as caught:
        _load(project)
    assert words in str(caught.value)
    assert "output.schema" in str(caught.value)
    assert "defs/digest" in str(caught.value)


def test_a_task_without_attributes_is_refused_in_words(project: Project) -> None:
    project.file("digest/defs.yaml", "type: agent_pipelines.components.AgentTask\n")
    with pytest.raises(DefinitionErrors, match="field `intent`: is missing"):
        _load(project)


def test_a_task_can_be_made_in_python() -> None:
    task = AgentTask(name="digest", intent="Sum up", agent="writer", triggers=(Cron(cron="0 6 * * *"),))
    assert isinstance(task, TaskSpec)
    assert TaskSpec.model_validate(task.canonical()).spec_hash == task.spec_hash


def test_a_task_can_be_loaded_as_components_are_in_tests() -> None:
    attributes = {"name": "digest", "intent": "Sum up", "agent": "writer", "prompt": "{{ day }}", "variables": {"day": 1}}
    assert AgentTask.from_attributes_dict(attributes=attributes).prompt == "{{ day }}"
    assert AgentTask.resolve_from_dict
    defs = AgentTask.from_attributes_dict(attributes=attributes).build_defs(dg.ComponentTree.for_test().load_context)
    assert [asset.keys for asset in defs.assets or ()] == [{dg.AssetKey(["default", "digest"])}]  # pyright: ignore


def test_the_json_schema_names_every_field_and_describes_it() -> None:
    schema = TaskAttributes.model_json_schema()
    json.dumps(schema)
    assert set(schema["properties"]) == set(TaskSpec.model_fields)
    assert schema["additionalProperties"] is False
    assert schema["required"] == ["intent", "agent"]
    assert all("description" in part for part in schema["properties"].values())


EVERYTHING = """
spec_version: 1
name: digest
application: finance
workspace: default
prompt: "{{ day }}: {{ state.total }} {{ upstream['finance/ledger'] }}"
system: Be brief
variables: {day: monday}
parameters: {temperature: 0.2}
session: {mode: named, name: desk}
window: {max_tokens: 4000, keep: [event, history]}
triggers:
  - {kind: cron, cron: "0 6 * * mon-fri", timezone: Europe/Berlin, name: nightly, enabled: false, variables: {day: tuesday}}
  - {kind: cron, name: second, cron: "0 0 6 * * *", seconds: first, catch_up: all, catch_up_within: 6h}
  - {kind: interval, every: 15m, offset: 30s, logical_time: "2013-02-08T02:00:00-05:00", jitter: 30s}
  - kind: interval
    name: year
    overlap: queue
    queue_limit: 5
    every: 1d
    spread: 5m
    starts_at: "2027-01-01T00:00:00+01:00"
    ends_at: "2027-12-31T23:59:59+01:00"
    calendar: {country: DE, subdivision: BY, days: business_days, closed: ["2027-05-14"]}
  - {kind: at, at: "2027-01-01T09:00:00+01:00"}
  - {kind: event, event: push, match: {branch: main}}
  - {kind: asset, asset: sales/orders}
  - {kind: after, task: ledger, offset: 15m, wait_at_most: 6h, repair: false, if_upstream_fails: run}
dependencies: [ledger]
deduplicate_by: "{{ day }}"
gate: os:getcwd
output: {format: json, schema: {type: object}}
checks: [{name: sums, python: "os:getcwd", blocking: false}]
remember: [total]
emits: digest.ready
timeout: {attempt: 1m, total: 1h 30m}
retry: {max_attempts: 2, delay: 2s, factor: 1.5, max_delay: 5m, jitter: 0, errors: [timeout], idempotent: true}
fallback: [{agent: spare}]
degrade: [{to: partial}]
placement: {labels: {gpu: a100}}
resource_keys: [warehouse]
budget: {tokens: 1000, usd: 0.5}
cost_estimate: {tokens: 500}
service_level: {start_within: 1m, finish_within: 30m}
risk: high
priority: 5
priority_class: batch
lane: run
pool: model
owners: ["team:data"]
tags: {tier: gold}
notifications: [desk]
"""


def test_every_field_can_be_written_in_yaml_and_is_in_the_schema(project: Project) -> None:
    task = _load(project.task("folder", EVERYTHING, prompt=None))
    written = {**yaml.safe_load(EVERYTHING), "intent": "Sum up the day", "agent": "writer"}
    # A batch goes with none of state, sessions, deduplication and fallbacks; a cache with fresh sessions of low risk only.
    assert set(written) == set(TaskSpec.model_fields) - {"batch", "cache"}
    assert set(task.model_fields_set) == set(TaskSpec.model_fields) - {"batch", "cache"}
    assert TaskSpec.model_validate(written).spec_hash == task.spec_hash
    validator = jsonschema.Draft202012Validator(TaskAttributes.model_json_schema())
    assert [error.message for error in validator.iter_errors(written)] == []


def test_the_key_of_a_batch_is_a_template_of_ours(project: Project) -> None:
    task = _load(project.task("folder", "batch: {items: {file: orders.csv}, key: '{{ item.id }}', concurrency: 2}", prompt="Go"))
    assert task.batch is not None
    assert (task.batch.key, task.batch.concurrency) == ("{{ item.id }}", 2)


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"triggers": [{"kind": "cron"}]}, "$.triggers[0]"),
        ({"triggers": [{"kind": "cron", "cron": 5}]}, "$.triggers[0].cron"),
        ({"triggers": [{"cron": "0 6 * * *"}]}, "$.triggers[0]"),
        ({"triggers": [{"kind": "sometimes"}]}, "$.triggers[0].kind"),
        ({"triggers": [{"kind": "cron", "cron": "0 6 * * *", "overlap": "wait"}]}, "$.triggers[0].overlap"),
        ({"retry": {"delay": "soon"}}, "$.retry.delay"),
        ({"risk": "none"}, "$.risk"),
    ],
)
def test_the_schema_names_the_field_inside(change: dict[str, object], path: str) -> None:
    validator = jsonschema.Draft202012Validator(TaskAttributes.model_json_schema())
    errors = list(validator.iter_errors({"intent": "x", "agent": "writer", **change}))
    assert [error.json_path for error in errors] == [path]
    assert not list(validator.iter_errors({"intent": "x", "agent": "writer", **dict.fromkeys(change, "{{ env.X }}")}))
