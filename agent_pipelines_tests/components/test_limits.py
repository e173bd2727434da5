import pytest

from agent_pipelines.components.limits import note_limits
from agent_pipelines.core.declared_limits import LIMITS, DeclaredLimits
from agent_pipelines.core.errors import DefinitionError
from agent_pipelines.definitions import definitions
from agent_pipelines.hub import Hub
from agent_pipelines.store.database import Database
from agent_pipelines_tests.components.project import Project

YAML = """\
type: agent_pipelines.components.Limits
attributes:
  limits:
    - scope: agent/writer
      concurrency: 5
    - scope: provider/fake
      requests: 10/s
"""


@pytest.fixture
def project(tmp_path: object) -> Project:
    return Project(tmp_path).agent().task("digest")  # type: ignore[arg-type]


def declared(project: Project) -> DeclaredLimits:
    metadata = definitions(project.root).metadata or {}
    return DeclaredLimits.model_validate_json(str(metadata[LIMITS].value))


def test_declared_limits_are_in_force_until_they_are_overridden_or_gone(project: Project, database: Database) -> None:
    hub = Hub(database)
    project.file("limits/defs.yaml", YAML)
    found = declared(project)
    note_limits(hub, found)
    hub.limiting.set(found.limits[0].spec.model_copy(update={"concurrency": 2}), actor="kim")
    agent, provider = hub.limiting.standing()
    assert (agent.concurrency, agent.origin, len(agent.overrides)) == (2, "set", 1)
    assert (provider.requests, provider.origin) == ("10/s", f"declared:{project.root.name}")
    assert provider.place is not None
    assert provider.place.endswith("limits/defs.yaml:6")
    hub.limiting.clear("agent/writer", actor="kim")
    assert hub.limiting.standing()[0].concurrency == 5
    note_limits(hub, found.model_copy(update={"limits": ()}))
    assert hub.limiting.standing() == []


@pytest.mark.parametrize(
    ("wrong", "right", "words"),
    [
        (
            "agent/writer",
            "agent/writr",
            r"defs.yaml:4, field `limits\[0\].scope`: there is no agent/writr. Did you mean `agent/writer`",
        ),
        ("concurrency: 5", "concurrency: 0", r"field `limits\[0\].concurrency`"),
        ("10/s", "ten", r"field `limits\[1\].requests`: 'ten' is not a rate"),
        ("provider/fake", "agent/writer", "agent/writer is limited already"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(project: Project, wrong: str, right: str, words: str) -> None:
    project.file("limits/defs.yaml", YAML.replace(wrong, right))
    with pytest.raises(DefinitionError, match=words):
        definitions(project.root)
