from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from agent_pipelines import DefinitionError
from agent_pipelines.core.declared import DECLARED, Declared
from agent_pipelines.definitions import declared
from agent_pipelines.engine.gateway import DagsterGateway
from agent_pipelines.engine.workspace import Workspace
from agent_pipelines_tests.components.project import Project
from agent_pipelines_tests.engine.project import write_project

WITH_CHECK = """
application: reports
workspace: lab
gate: "{module}:is_open"
checks:
- {{name: adds_up, python: "{module}:adds_up"}}
"""


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    made = Project(tmp_path / "project")
    yield made
    made.close()


def test_what_a_project_declares(project: Project) -> None:
    module = project.module("tests")
    project.file("tests.py", "def adds_up(output, invocation):\n    return True\n\n\ndef is_open(invocation):\n    return None\n")
    project.agent().agent("reader").task("digest", WITH_CHECK.format(module=module)).task("mail")
    project.file(
        "assets.py",
        """
        import dagster as dg

        orders = dg.AssetSpec(["sales", "orders"])


        @dg.definitions
        def defs() -> dg.Definitions:
            return dg.Definitions(assets=[orders])
        """,
    )
    project.file(
        "own.py",
        """
        from agent_pipelines import agent_task


        @agent_task(intent="Count", application="sales")
        def count(invocation):
            return 1
        """,
    )
    found = declared(project.root)
    assert found == Declared(
        workspaces=("default", "lab"),
        agents=("reader", "sales__count", "writer"),
        references=(f"{module}:adds_up", f"{module}:is_open"),
        tasks=(("default", "default", "mail"), ("default", "sales", "count"), ("lab", "reports", "digest")),
        assets=("sales/orders",),
    )
    assert found.paths("lab") == {"reports/digest"}
    assert Declared.model_validate_json(found.model_dump_json()) == found


def test_a_project_that_cannot_be_loaded_tells_nothing(project: Project) -> None:
    project.agent().task("digest", "colour: red")
    with pytest.raises(DefinitionError, match="field `colour`"):
        declared(project.root)


def test_code_locations_tell_it_in_a_sensors_metadata(tmp_path: Path) -> None:
    first = Declared(agents=("writer",), tasks=(("default", "reports", "digest"),), assets=("sales/orders",))
    second = Declared(workspaces=("default", "lab"), agents=("reader", "writer"), references=("acme.checks:adds_up",))
    lines = ["import dagster as dg"]
    for number, each in enumerate((first, second)):
        metadata = {DECLARED: each.model_dump_json()}
        lines.append(f"@dg.sensor(name='s{number}', metadata={metadata!r})\ndef s{number}():\n    yield dg.SkipReason('nothing')")
    lines += ["@dg.sensor()\ndef other():\n    yield dg.SkipReason('nothing')", "defs = dg.Definitions(sensors=[s0, s1, other])"]
    file = write_project(tmp_path / "project", "\n\n".join(lines))
    with dg.DagsterInstance.ephemeral() as instance, Workspace(instance, file) as workspace:
        assert DagsterGateway(instance, workspace.locations).declared() == Declared(
            workspaces=("default", "lab"),
            agents=("reader", "writer"),
            references=("acme.checks:adds_up",),
            tasks=(("default", "reports", "digest"),),
            assets=("sales/orders",),
        )
        with pytest.raises(DefinitionError, match="no code location tells what it declares"):
            DagsterGateway(instance).declared()
