import importlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest

import agent_pipelines
from agent_pipelines import BurstSettings, DefinitionError, definitions
from agent_pipelines.core.declared import DECLARED, Declared
from agent_pipelines.core.problems import DefinitionErrors
from agent_pipelines.engine.burst_settings import BURST
from agent_pipelines_tests.components.project import AGENT, Project


def test_a_project_loads_with_its_defaults(project: Project) -> None:
    project.agent().task("digest", "triggers: [{kind: cron, cron: '0 6 * * *'}]").task("report", "dependencies: [digest]")
    project.file("plain.py", "import dagster as dg\n\n\n@dg.asset(key_prefix='sales')\ndef orders() -> int:\n    return 1\n")
    defs = project.load()
    repository = defs.get_repository_def()
    repository.validate_loadable()
    own = {"__ASSET_JOB", "default__digest", "default__report"}
    assert set(repository.job_names) == {*own, "agent_pipelines__burst__default"}
    assert [schedule.name for schedule in repository.schedule_defs] == ["default__digest__cron"]
    sensors = {sensor.name for sensor in repository.sensor_defs}
    assert sensors == {"agent_pipelines__reconciler", "agent_pipelines__bursts__default"}
    assert dg.AssetKey("registered_tasks") in repository.asset_graph.get_all_asset_keys()
    assert defs.executor is dg.in_process_executor
    assert set(repository.get_top_level_resources()) == {"agent_writer"}
    upstream = repository.asset_graph.get(dg.AssetKey(["default", "report"])).parent_keys
    assert upstream == {dg.AssetKey(["default", "digest"])}


def test_a_project_says_how_its_bursts_work_and_what_registered_tasks_may_use(project: Project) -> None:
    project.agent().task("digest", "workspace: acme")
    defs = definitions(project.root, bursts=BurstSettings(in_flight=7))
    for workspace in ("default", "acme"):
        sensor = defs.get_repository_def().get_sensor_def(f"agent_pipelines__bursts__{workspace}")
        assert BurstSettings.model_validate_json(str(sensor.metadata[BURST].value)).in_flight == 7
        declared = Declared.model_validate_json(str(sensor.metadata[DECLARED].value))
        assert (declared.workspaces, declared.agents) == (("acme", "default"), ("writer",))
        assert declared.tasks == (("acme", "default", "digest"),)


def test_a_project_keeps_an_executor_of_its_own(project: Project) -> None:
    project.agent().task("digest")
    project.file(
        "plain.py",
        "import dagster as dg\n\n\n@dg.definitions\ndef defs():\n    return dg.Definitions(executor=dg.multiprocess_executor)\n",
    )
    assert project.load().executor is dg.multiprocess_executor


def test_loading_opens_nothing(project: Project, tmp_path: Path) -> None:
    project.agent().task("digest")
    home = tmp_path / "home"
    home.mkdir()
    code = f"import {project.package}.definitions as m; m.defs().get_repository_def().load_all_definitions()"
    environment = {"PYTHONPATH": str(project.root), "DAGSTER_HOME": str(home), "PATH": "/usr/bin:/bin"}
    subprocess.run([sys.executable, "-c", code], cwd=project.root, env=environment, check=True)
    assert list(home.iterdir()) == []
    assert [path.name for path in project.root.rglob("*.db")] == []


def _misspelt_key(project: Project) -> None:
    project.agent().task("digest", "promt: Hello")


def _misspelt_trigger_key(project: Project) -> None:
    project.agent().task("digest", "triggers:\n  - kind: cron\n    corn: 0 6 * * *\n")


def _misspelt_nested_key(project: Project) -> None:
    project.agent().task("digest", "retry:\n  max_attempt: 2\n")


def _wrong_cron(project: Project) -> None:
    project.agent().task("digest", "triggers:\n  - kind: cron\n    cron: 0 6 * *\n")


def _wrong_zone(project: Project) -> None:
    project.agent().task("digest", "triggers:\n  - {kind: cron, cron: 0 6 * * *, timezone: Mars/Base}\n")


def _near_zone(project: Project) -> None:
    project.agent().task("digest", "triggers:\n  - {kind: cron, cron: 0 6 * * *, timezone: Europe/Berln}\n")


def _jitter_beyond_the_period(project: Project) -> None:
    project.agent().task("digest", "triggers:\n  - kind: interval\n    every: 5s\n    jitter: 10s\n")


def _unknown_country(project: Project) -> None:
    calendar = "    calendar:\n      country: XX\n"
    project.agent().task("digest", f"triggers:\n  - kind: interval\n    every: 5s\n{calendar}")


def _unknown_kind(project: Project) -> None:
    project.agent().task("digest", "triggers:\n  - kind: sometimes\n")


def _two_triggers_of_a_name(project: Project) -> None:
    project.agent().task("digest", "triggers:\n  - {kind: cron, cron: 0 6 * * *}\n  - {kind: cron, cron: 0 7 * * *}\n")


def _reserved_trigger_name(project: Project) -> None:
    project.agent().task("digest", "triggers:\n  - kind: cron\n    cron: 0 6 * * *\n    name: repair\n")


def _unknown_agent(project: Project) -> None:
    project.agent().task("digest", agent="wirter")


def _missing_variable(project: Project) -> None:
    project.agent().task("digest", "variables: {commit: abc}", prompt="One\nReview {{ comit }}\n")


def _missing_variable_in_yaml(project: Project) -> None:
    project.agent().task("digest", "variables: {commit: abc}\nprompt: Review {{ comit }}")


def _wrong_trigger_variable(project: Project) -> None:
    project.agent().task(
        "digest", "triggers:\n  - kind: cron\n    cron: 0 6 * * *\n    variables:\n      commit: '{{ event.commit }}'\n"
    )


def _unknown_state(project: Project) -> None:
    project.agent().task("digest", prompt="Since {{ state.baseline }}")


def _no_prompt(project: Project) -> None:
    project.agent(text=AGENT.replace("fake", "openai") + "  config: {base_url: https://host/v1, model: m}\n")
    project.task("digest", prompt=None)


def _bad_schema(project: Project) -> None:
    project.agent().task("digest", "output:\n  schema: {type: strnig}\n")


def _missing_schema_file(project: Project) -> None:
    project.agent().task("digest", "output:\n  schema_file: shcema.json\n")


def _circle(project: Project) -> None:
    project.agent().task("digest", "dependencies: [report]")
    project.task("report", "triggers:\n  - kind: after\n    task: ledger\n").task("ledger", "dependencies: [digest]")


def _same_name(project: Project) -> None:
    project.agent().task("digest").task("other", "name: digest")


def _same_job(project: Project) -> None:
    project.agent().task("digest", "application: a\nname: b__c").task("other", "application: a__b\nname: c")


def _same_agent(project: Project) -> None:
    project.agent().agent("other", AGENT + "  name: writer\n").task("digest")


def _bad_name(project: Project) -> None:
    project.agent().task("daily-digest")


def _unknown_dependency(project: Project) -> None:
    project.agent().task("digest", "dependencies: [reprot]").task("report")


def _unknown_upstream(project: Project) -> None:
    project.agent().task("digest", "triggers:\n  - {kind: after, task: finance/report}\n").task("report")


def _unknown_asset(project: Project) -> None:
    project.agent().task("digest", "triggers:\n  - {kind: asset, asset: sales/ordres}\n")
    project.file("plain.py", "import dagster as dg\n\norders = dg.AssetSpec(['sales', 'orders'])\n")


def _bare_asset(project: Project) -> None:
    project.agent().task("digest", "dependencies: [orders]")
    project.file("plain.py", "import dagster as dg\n\norders = dg.AssetSpec('orders')\n")


def _unknown_check(project: Project) -> None:
    project.agent().task("digest", "checks:\n  - {name: sums, python: 'agent_pipelines_tests.nowhere:sums'}\n")


def _unknown_gate(project: Project) -> None:
    project.agent().task("digest", "gate: os:no_such_function")


def _unknown_runtime(project: Project) -> None:
    project.agent(text=AGENT.replace("fake", "opnai")).task("digest")


def _wrong_setting(project: Project) -> None:
    project.agent(text=AGENT.replace("fake", "openai") + "  config:\n    base_url: https://host/v1\n    modle: m\n").task(
        "digest"
    )


def _wrong_setting_of_a_node(project: Project) -> None:
    nodes = "  nodes:\n    - name: left\n      config: {fail_times: many}\n"
    project.agent(text=AGENT + nodes).task("digest")


def _secret(project: Project) -> None:
    config = "  config:\n    base_url: https://host/v1\n    model: m\n    headers: {X-Key: sk-0123456789abcdef}\n"
    project.agent(text=AGENT.replace("fake", "openai") + config).task("digest")


def _unknown_function(project: Project) -> None:
    project.agent(text=AGENT.replace("fake", "python") + "  config: {function: 'os:no_such_function'}\n").task("digest")


def _bad_tag(project: Project) -> None:
    project.agent().task("digest", "tags: {two words: x}")


def _bad_owner(project: Project) -> None:
    project.agent().task("digest", "owners: [joe]")


def _reserved_application(project: Project) -> None:
    project.agent().task("digest", "application: registered_tasks")


def _reserved_check_name(project: Project) -> None:
    project.agent().task("digest", "checks:\n  - {name: output_schema, python: 'os:getcwd'}\n")


# What is written, the file and line, the field, the words of the problem, the words of the fix.
BAD = [
    (_misspelt_key, "digest/defs.yaml:5", "promt", "`promt` is not a field", "Did you mean `prompt`?"),
    (_misspelt_trigger_key, "digest/defs.yaml:7", "triggers[0].corn", "is not a field", "Did you mean `cron`?"),
    (_misspelt_nested_key, "digest/defs.yaml:6", "retry.max_attempt", "is not a field", "Did you mean `max_attempts`?"),
    (_wrong_cron, "digest/defs.yaml:7", "triggers[0].cron", "has 4 fields", "write five: minute hour"),
    (_wrong_zone, "digest/defs.yaml:6", "triggers[0].timezone", "'Mars/Base' is not a time zone", "as in Europe/Berlin"),
    (_near_zone, "digest/defs.yaml:6", "triggers[0].timezone", "'Europe/Berln' is not a time zone", "mean Europe/Berlin?"),
    (_jitter_beyond_the_period, "digest/defs.yaml:8", "triggers[0].jitter", "longer than the 5 s between", "write 5s or less"),
    (_unknown_country, "digest/defs.yaml:9", "triggers[0].calendar.country", "'XX' has no calendar", "as in DE"),
    (_unknown_kind, "digest/defs.yaml:6", "triggers[0]", "there is no kind 'sometimes'", "one of after, asset, at, cron"),
    (_two_triggers_of_a_name, "digest/defs.yaml:5", "triggers", "two are named 'cron'", "give each a `name`"),
    (_reserved_trigger_name, "digest/defs.yaml:8", "triggers[0].name", "'repair' is kept", "Choose another"),
    (_unknown_agent, "digest/defs.yaml:4", "agent", "there is no agent `wirter`", "Did you mean `writer`?"),
    (_missing_variable, "digest/prompt.md", "prompt", "line 2: `comit` is not a name", "Did you mean `commit`?"),
    (_missing_variable_in_yaml, "digest/defs.yaml:6", "prompt", "`comit` is not a name", "Did you mean `commit`?"),
    (
        _wrong_trigger_variable,
        "digest/defs.yaml:9",
        "triggers[0].variables.commit",
        "`event` is not a name",
        "There is: `due_at`",
    ),
    (_unknown_state, "digest/prompt.md", "prompt", "`state.baseline` is not among", "remember: [baseline]"),
    (_no_prompt, "digest/defs.yaml:2", "prompt", "is missing, and agent `writer` cannot work without", "into prompt.md"),
    (_bad_schema, "digest/defs.yaml:6", "output.schema", "not a JSON Schema at $.type", "'strnig' is not valid"),
    (_missing_schema_file, "digest/defs.yaml:6", "output.schema_file", "there is no file shcema.json", "Write shcema.json"),
    (
        _circle,
        "digest/defs.yaml:5",
        "dependencies[0]",
        "default/digest waits for default/report waits for default/ledger",
        "Remove",
    ),
    (_same_name, "other/defs.yaml:5", "name", "there is a task default/digest already, in", "Rename one of the two"),
    (_same_job, "other/defs.yaml:6", "name", "job or op a__b__c (of task a/b__c) already", "Rename one of the two"),
    (_same_agent, "writer/defs.yaml:2", "name", "there is an agent writer already, in", "Rename one of the two"),
    (_bad_name, "daily-digest/defs.yaml:2", "name", "not 'daily-digest'", "For example: daily_digest"),
    (_unknown_dependency, "digest/defs.yaml:5", "dependencies[0]", "no task or asset `default/reprot`", "mean `default/report`?"),
    (_unknown_upstream, "digest/defs.yaml:6", "triggers[0].task", "no task `finance/report`", "mean `default/report`?"),
    (_unknown_asset, "digest/defs.yaml:6", "triggers[0].asset", "no task or asset `sales/ordres`", "mean `sales/orders`?"),
    (_bare_asset, "digest/defs.yaml:5", "dependencies[0]", "no task or asset `default/orders`", "a key of two parts"),
    (_unknown_check, "digest/defs.yaml:6", "checks[0].python", "cannot be imported", "Write `module:function`"),
    (_unknown_gate, "digest/defs.yaml:5", "gate", "'os:no_such_function' cannot be imported", "Write `module:function`"),
    (_unknown_runtime, "writer/defs.yaml:3", "runtime", "there is no runtime `opnai`", "Did you mean `openai`?"),
    (_wrong_setting, "writer/defs.yaml:6", "config.modle", "is not a field", "Did you mean `model`?"),
    (_wrong_setting_of_a_node, "writer/defs.yaml:6", "nodes[0].config.fail_times", "not 'many'", "Number of attempts"),
    (_secret, "writer/defs.yaml:7", "config.headers", "holds a secret", "environment variable"),
    (_unknown_function, "writer/defs.yaml:4", "config.function", "cannot be imported", "Write `module:function`"),
    (_bad_tag, "digest/defs.yaml:5", "tags", "Found invalid tag keys: ['two words']", "Allowed characters"),
    (_bad_owner, "digest/defs.yaml:5", "owners", "Invalid owner 'joe'", "must be an email address or a team name"),
    (_reserved_application, "digest/defs.yaml:5", "application", "is kept for the assets of registered tasks", "Choose another"),
    (_reserved_check_name, "digest/defs.yaml:6", "checks[0].name", "is the check of the schema", "Choose another name"),
]


@pytest.mark.parametrize(("write", "file", "field", "problem", "fix"), BAD, ids=[row[0].__name__.strip("_") for row in BAD])
def test_a_wrong_declaration_is_refused_with_file_field_and_fix(
    project: Project, write: Callable[[Project], None], file: str, field: str, problem: str, fix: str
) -> None:
    write(project)
    with pytest.raises(DefinitionError) as caught:
        project.load()
    found = caught.value.problems if isinstance(caught.value, DefinitionErrors) else [caught.value]
    [match] = [each for each in found if each.field == field]
    text = str(match)
    assert f"{project.package}/defs/{file}" in text
    assert problem in text
    assert fix in text
    assert "sk-0123" not in str(caught.value)


def test_several_problems_are_told_together(project: Project) -> None:
    project.agent().task("digest", "promt: x").task("report", "priority: high").task("ledger", prompt="{{ nowhere }}")
    with pytest.raises(DefinitionErrors) as caught:
        project.load()
    assert [problem.field for problem in caught.value.problems] == ["promt", "priority", "prompt"]
    assert str(caught.value).startswith("3 problems in the definitions:\n- ")


def test_tasks_and_agents_made_by_python_code_are_checked_too(project: Project) -> None:
    project.file(
        "made.py",
        """
        from __future__ import annotations

        import dagster as dg

        from agent_pipelines import Agent, AgentTask


        @dg.component_instance
        def digest(context: dg.ComponentLoadContext) -> AgentTask:
            return AgentTask(name="digest", intent="Sum up", agent="wirter", prompt="{{ nowhere }}")


        @dg.component_instance
        def writer(context: dg.ComponentLoadContext) -> Agent:
            return Agent(name="writer", runtime="fake", config={"fail_times": -1})
        """,
    )
    with pytest.raises(DefinitionErrors) as caught:
        project.load()
    assert [(problem.field, problem.file) for problem in caught.value.problems] == [
        ("prompt", f"{project.package}/defs/made.py"),
        ("config.fail_times", f"{project.package}/defs/made.py"),
    ]


def test_an_agent_may_be_a_resource_of_the_project(project: Project) -> None:
    project.task("digest")
    project.file(
        "agents.py",
        """
        import dagster as dg

        from agent_pipelines.components.resource import AgentResource


        @dg.definitions
        def defs():
            writer = AgentResource(agent="writer", runtime="fake", nodes={"main": {}})
            return dg.Definitions(resources={"agent_writer": writer})
        """,
    )
    project.load().get_repository_def().validate_loadable()


def test_a_long_chain_of_tasks_is_no_circle(project: Project) -> None:
    project.agent().task("t0")
    for number in range(1, 40):
        project.task(f"t{number}", f"dependencies: [t{number - 1}]")
    assert len(list(project.load().assets or ())) == 40 + 2  # and the ticks, and the one of registered tasks


def test_the_name_works_as_a_function_whatever_was_imported_first(project: Project) -> None:
    project.agent().task("digest")
    module = importlib.import_module("agent_pipelines.definitions")
    for load in (module, module.definitions, definitions, agent_pipelines.definitions):
        assert len(list(load(project.root).assets or ())) == 1 + 2  # and the ticks, and the one of registered tasks


def test_the_public_names() -> None:
    assert agent_pipelines.__all__ == sorted(agent_pipelines.__all__)
    assert set(agent_pipelines.__all__) == agent_pipelines._HOMES.keys() | agent_pipelines._MODULES
    for name in agent_pipelines.__all__:
        assert getattr(agent_pipelines, name).__name__.rpartition(".")[2] == name


def test_importing_the_package_imports_neither_dagster_nor_sqlalchemy() -> None:
    code = (
        "import sys, agent_pipelines\n"
        "from agent_pipelines import Cron, Final, Invocation, RuntimeFailure, agent_task\n"
        "@agent_task()\ndef digest(invocation): 'Sum up'; return 'x'\n"
        "assert digest.function(None) == digest(None) == 'x'\n"
        "print(sorted({'dagster', 'sqlalchemy', 'httpx', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
