"""`agent-pipelines init`: a project of one's own."""

import re
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Annotated

import typer

from agent_pipelines.cli.problems import BadInput

_LAYOUT = {
    "pyproject.toml": "pyproject.toml.txt",
    "workspace.yaml": "workspace.yaml.txt",
    "dagster.yaml": "dagster.yaml",
    "README.md": "README.md.txt",
    ".gitignore": "gitignore.txt",
    "{package}/__init__.py": None,
    "{package}/definitions.py": "definitions.py.txt",
    "{package}/defs/__init__.py": None,
    "{package}/defs/agents/offline/defs.yaml": "agent.yaml.txt",
    "{package}/defs/hello/defs.yaml": "task.yaml.txt",
    "{package}/defs/hello/prompt.md": "prompt.md.txt",
}


def init(
    name: Annotated[str, typer.Argument(help="Name of the project and of the new directory, as in `nightly-agents`.")],
    directory: Annotated[Path, typer.Option(help="Where the new directory is made.")] = Path(),
) -> None:
    """Make a project with one agent that answers offline and one task on a schedule."""
    if not re.fullmatch(r"[a-z][a-z0-9_-]*", name):
        raise BadInput(f"{name!r} is no project name; use lower-case letters, digits, - and _, as in nightly-agents")
    project = directory / name
    if project.exists():
        raise BadInput(f"{project} exists; choose another name, nothing was changed")
    package = name.replace("-", "_")
    templates = files("agent_pipelines.cli") / "new_project"
    for target, source in _LAYOUT.items():
        path = project / target.format(package=package)
        path.parent.mkdir(parents=True, exist_ok=True)
        text = "" if source is None else (templates / source).read_text(encoding="utf-8")
        path.write_text(Template(text).safe_substitute(name=name, package=package), encoding="utf-8")
    typer.echo(f"made {project}. Next:\n  cd {project}\n  agent-pipelines up")
