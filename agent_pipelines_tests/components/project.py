"""A dg project of a user, written into a directory."""

import sys
import textwrap
from pathlib import Path
from uuid import uuid4

import dagster as dg

from agent_pipelines.definitions import definitions

AGENT = "type: agent_pipelines.components.Agent\nattributes:\n  runtime: fake\n"


def task_yaml(attributes: str = "", *, agent: str = "writer", intent: str = "Sum up the day") -> str:
    """The defs.yaml of a task; `attributes` are further YAML lines."""
    lines = f"intent: {intent}\nagent: {agent}\n{textwrap.dedent(attributes)}"
    return "type: agent_pipelines.components.AgentTask\nattributes:\n" + textwrap.indent(lines, "  ")


class Project:
    """A project with one package, whose defs folder holds what is written into it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.package = f"project_{uuid4().hex}"
        self.defs = root / self.package / "defs"
        self.defs.mkdir(parents=True)
        (self.defs / "__init__.py").touch()
        (self.defs.parent / "__init__.py").touch()
        (self.defs.parent / "definitions.py").write_text(
            "from pathlib import Path\n\nimport dagster as dg\n\nimport agent_pipelines\n\n\n"
            "@dg.definitions\ndef defs() -> dg.Definitions:\n    return agent_pipelines.definitions(Path(__file__).parent)\n"
        )
        (root / "pyproject.toml").write_text(
            '[project]\nname = "x"\nversion = "0"\n\n[tool.dg]\ndirectory_type = "project"\n\n'
            f'[tool.dg.project]\nroot_module = "{self.package}"\n'
        )
        sys.path.insert(0, str(root))

    def file(self, path: str, text: str) -> Path:
        file = self.defs / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text))
        return file

    def agent(self, name: str = "writer", text: str = AGENT) -> "Project":
        self.file(f"{name}/defs.yaml", text)
        return self

    def task(self, name: str, attributes: str = "", *, prompt: str | None = "Write it", agent: str = "writer") -> "Project":
        self.file(f"{name}/defs.yaml", task_yaml(attributes, agent=agent))
        if prompt is not None:
            self.file(f"{name}/prompt.md", prompt)
        return self

    def module(self, name: str) -> str:
        """The full name of a module of the defs folder."""
        return f"{self.package}.defs.{name}"

    def load(self) -> dg.Definitions:
        return definitions(self.root)

    def close(self) -> None:
        sys.path.remove(str(self.root))
        for name in [name for name in sys.modules if name.split(".")[0] == self.package]:
            del sys.modules[name]
