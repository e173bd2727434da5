import dagster as dg
import pytest

from agent_pipelines import Cron, DefinitionError, Invocation, agent_task
from agent_pipelines.core.execution import Status
from agent_pipelines.core.invocation import Origin
from agent_pipelines.engine.launch import Launch
from agent_pipelines_tests.components.project import Project
from agent_pipelines_tests.components.running import executions

FUNCTIONS = '''
from collections.abc import AsyncIterator, Iterator

from agent_pipelines import Cron, Final, Invocation, Text, agent_task


@agent_task(application="finance", triggers=[Cron(cron="0 6 * * *")], remember=["total"], output={"format": "json"})
def balance(invocation: Invocation) -> dict[str, int]:
    """Sum up the day."""
    return {"total": (invocation.state["total"] or 0) + 1}


@agent_task(name="reply", intent="Answer")
async def answer(invocation: Invocation) -> str:
    return f"{invocation.task} for {invocation.variables.get('who', 'nobody')}"


@agent_task(intent="Stream")
async def stream(invocation: Invocation) -> AsyncIterator[str]:
    yield "one "
    yield "two"


@agent_task(intent="Count")
def count(invocation: Invocation) -> Iterator[Text | Final]:
    yield Text(text="a")
    yield Final(text="ab", output=[1, 2])
'''


def _run(defs: dg.Definitions, job: str, instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    return defs.resolve_job_def(job).execute_in_process(instance=instance)


def test_functions_of_all_forms_are_tasks_with_the_same_record(project: Project, instance: dg.DagsterInstance) -> None:
    project.file("functions.py", FUNCTIONS)
    defs = project.load()
    repository = defs.get_repository_def()
    jobs = {"finance__balance", "default__reply", "default__stream", "default__count"}
    assert jobs <= set(repository.job_names)
    assert [schedule.name for schedule in repository.schedule_defs] == ["finance__balance__cron"]
    for job in sorted(jobs):
        _run(defs, job, instance)
    _run(defs, "finance__balance", instance)
    found = {name: executions(instance, name)[-1] for name in ("balance", "reply", "stream", "count")}
    assert {execution.status for execution in found.values()} == {Status.SUCCEEDED}
    assert found["balance"].output == {"total": 2}
    assert found["reply"].text == "reply for nobody"
    assert found["stream"].text == "one two"
    assert (found["count"].text, found["count"].output) == ("ab", [1, 2])
    assert found["balance"].application == "finance"
    assert found["balance"].agent == "finance__balance"


def test_the_declaration_is_that_of_the_function(project: Project) -> None:
    project.file("functions.py", FUNCTIONS)
    defs = project.load()
    specs = {spec.key.to_user_string(): spec for spec in defs.resolve_all_asset_specs()}
    assert specs["finance/balance"].description == "Sum up the day."
    assert specs["default/reply"].description == "Answer"


def test_a_decorated_function_is_still_a_function() -> None:
    @agent_task(intent="Double", triggers=[Cron(cron="0 6 * * *")])
    def double(number: int) -> int:
        "Twice as much."
        return 2 * number

    assert double(4) == 8
    assert double.__name__ == "double"
    assert double.__doc__ == "Twice as much."


@pytest.mark.parametrize(
    ("code", "field", "words"),
    [
        ("@agent_task(intent='x', promt='y')\ndef work(invocation): ...", "promt", "Did you mean `prompt`?"),
        ("@agent_task()\ndef work(invocation): ...", "intent", "at least 1 character"),
        ("@agent_task(intent='x')\ndef Work(invocation): ...", "name", "not 'Work'"),
        (
            "def make():\n    @agent_task(intent='x')\n    def work(invocation): ...\n    return work\nwork = make()",
            None,
            "top level",
        ),
        ("@agent_task(intent='x', prompt='{{ nowhere }}')\ndef work(invocation): ...", "prompt", "`nowhere` is not a name"),
    ],
)
def test_a_wrong_declaration_names_file_and_field(project: Project, code: str, field: str | None, words: str) -> None:
    project.file("functions.py", f"from agent_pipelines import agent_task\n\n{code}\n")
    with pytest.raises(DefinitionError) as caught:
        project.load()
    assert caught.value.field == field
    assert f"{project.package}/defs/functions.py" in str(caught.value)
    assert words in str(caught.value)


def test_a_task_may_depend_on_a_function(project: Project, instance: dg.DagsterInstance) -> None:
    project.file("functions.py", FUNCTIONS).parent.joinpath("x").touch()
    project.agent().task(
        "report", "application: finance\ndependencies: [balance]", prompt="Total {{ upstream['finance/balance'].total }}"
    )
    defs = project.load()
    job = defs.resolve_implicit_global_asset_job_def()
    selection = [dg.AssetKey(["finance", "balance"]), dg.AssetKey(["finance", "report"])]
    assert job.execute_in_process(instance=instance, asset_selection=selection).success
    assert executions(instance, "report")[-1].text == "Total 1"


def test_the_invocation_reaches_the_function(project: Project) -> None:
    invocation = Invocation(
        task="x",
        spec_hash="h",
        trigger="t",
        origin="on_demand",
        occurrence="o",
        due_at=1,
        logical_at=1,  # pyright: ignore
    )
    project.file("functions.py", FUNCTIONS)
    project.load()
    import importlib

    functions = importlib.import_module(project.module("functions"))
    assert list(functions.count(invocation))[1].text == "ab"


def test_a_function_sees_the_variables_of_its_task_below_those_of_the_launch(
    project: Project, instance: dg.DagsterInstance
) -> None:
    code = FUNCTIONS.replace('intent="Answer"', 'intent="Answer", variables={"who": "kim"}')
    project.file("functions.py", code)
    job = project.load().resolve_job_def("default__reply")
    assert job.execute_in_process(instance=instance).success
    launch = Launch(
        task="default/reply",
        trigger="on_demand",
        origin=Origin.ON_DEMAND,
        occurrence="x",
        due_at=1,
        logical_at=1,
        variables={"who": "lee"},
    )
    assert job.execute_in_process(instance=instance, tags=launch.tags()).success
    assert [execution.text for execution in executions(instance, "reply")] == ["reply for kim", "reply for lee"]
