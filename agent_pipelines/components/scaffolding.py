"""What `dg scaffold defs` writes."""

from pathlib import Path

import dagster as dg
import yaml
from pydantic import BaseModel, Field

_TASK_YAML = """\
type: {type}

attributes:
  application: {application}
  intent: Say hello, once a day
  agent: {agent}
  triggers:
    - kind: cron
      cron: "0 6 * * *"
      timezone: UTC
"""

_TASK_PYTHON = """\
from agent_pipelines import Cron, Invocation, agent_task


@agent_task(application="{application}", intent="Say hello, once a day", triggers=[Cron(cron="0 6 * * *")])
def {name}(invocation: Invocation) -> str:
    return f"Hello on {{invocation.logical_at}}"
"""

_PROMPT = """\
Say hello to the readers of {{ logical_time }}.
"""

_AGENT_YAML = """\
type: {type}

attributes:
  # A shipped double that answers offline. `agent-pipelines runtime list` names the others.
  runtime: fake
"""


class TaskParameters(BaseModel):
    """What a new task can be given."""

    application: str = Field(default="default", description="Application that the task belongs to.")
    agent: str | None = Field(default=None, description="Agent of the task; defaults to one that the project has.")


class TaskScaffolder(dg.Scaffolder[TaskParameters]):
    """Writes a task that works: defs.yaml and prompt.md, and an offline agent if the project has none."""

    @classmethod
    def get_scaffold_params(cls) -> type[TaskParameters]:
        return TaskParameters

    def scaffold(self, request: dg.ScaffoldRequest[TaskParameters]) -> None:
        folder = request.target_path
        application = request.params.application
        if request.scaffold_format == "python":
            text = _TASK_PYTHON.format(application=application, name=folder.name)
            (folder / "component.py").write_text(text, encoding="utf-8")
            return
        package = request.type_name.rpartition(".")[0]
        agent = request.params.agent or _an_agent(folder, f"{package}.Agent")
        text = _TASK_YAML.format(type=request.type_name, application=application, agent=agent)
        (folder / "defs.yaml").write_text(text, encoding="utf-8")
        (folder / "prompt.md").write_text(_PROMPT, encoding="utf-8")


class AgentScaffolder(dg.Scaffolder[BaseModel]):
    """Writes an agent that answers offline."""

    def scaffold(self, request: dg.ScaffoldRequest[BaseModel]) -> None:
        (request.target_path / "defs.yaml").write_text(_AGENT_YAML.format(type=request.type_name), encoding="utf-8")


def _an_agent(folder: Path, type_name: str) -> str:
    """The name of an agent of the project that a new task lies in; a new offline one if there is none."""
    # The defs folder is a package; the folders in it are none.
    defs = next((parent for parent in folder.parents if (parent / "__init__.py").exists()), folder.parent)
    for file in sorted(defs.rglob("defs.yaml")):
        for document in yaml.safe_load_all(file.read_text(encoding="utf-8")):
            if isinstance(document, dict) and document.get("type") == type_name:
                return str((document.get("attributes") or {}).get("name") or file.parent.name)
    offline = defs / "offline"
    offline.mkdir(exist_ok=True)
    (offline / "defs.yaml").write_text(_AGENT_YAML.format(type=type_name), encoding="utf-8")
    return offline.name
