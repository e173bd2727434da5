from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from agent_pipelines_tests.components.project import Project


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """An empty project of a user."""
    made = Project(tmp_path / "project")
    yield made
    made.close()


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral
