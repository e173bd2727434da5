"""What a command works on: the deployment of DAGSTER_HOME and the project of this directory, opened when needed.

Dagster is imported here and only when it is needed: it takes longer to import than most commands to run.
"""

import contextlib
import getpass
import logging
import os
import sys
import tomllib
from collections.abc import Generator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from agent_pipelines.cli.problems import BadInput, unknown

if TYPE_CHECKING:
    from agent_pipelines.core.declared import Declared
    from agent_pipelines.core.task import TaskKey
    from agent_pipelines.engine.gateway import DagsterGateway
    from agent_pipelines.engine.home import Instance
    from agent_pipelines.hub import Hub
    from agent_pipelines.insight.tasks import KnownTask
    from agent_pipelines.registry.registered import RegisteredTask


class Deployment:
    """One deployment, and the project that declares its tasks if there is one."""

    def __init__(self, home: Path | None = None, project: Path | None = None) -> None:
        self._project = project
        if home is not None:
            os.environ["DAGSTER_HOME"] = str(home.expanduser().absolute())

    @classmethod
    def of(cls, context: typer.Context) -> "Deployment":
        """The one that the options before the command name."""
        return context.ensure_object(cls)

    @property
    def actor(self) -> str:
        """Who types, for the record."""
        try:
            return f"cli:{getpass.getuser()}"
        except (OSError, KeyError):  # a container's user may have no name
            return f"cli:{os.getuid()}"

    @cached_property
    def instance(self) -> "Instance":
        """The Dagster instance. Raises HomeError if DAGSTER_HOME does not lead to one."""
        from agent_pipelines.engine.home import VARIABLE, instance_of_home

        # `up` keeps the records of a project there, unless it is told otherwise.
        if not os.environ.get(VARIABLE) and self.project is not None and (self.project / ".dagster_home").is_dir():
            os.environ[VARIABLE] = str(self.project / ".dagster_home")
        # A home without settings is in order for commands; `up` writes them.
        logging.getLogger("dagster").setLevel(logging.ERROR)
        return instance_of_home()

    @cached_property
    def hub(self) -> "Hub":
        """The nouns of the record."""
        from agent_pipelines.engine.place import database_url
        from agent_pipelines.hub import open_hub

        return open_hub(database_url(self.instance))

    @contextlib.contextmanager
    def launching(self) -> Generator["DagsterGateway"]:
        """Dagster with the code of the project, for launching. Raises BadInput without a project."""
        from agent_pipelines.engine.gateway import DagsterGateway
        from agent_pipelines.engine.workspace import Workspace

        if self.project is None:
            raise BadInput("there is no project here; name the directory that has its pyproject.toml with --project")
        with Workspace.of_directory(self.instance, self.project) as workspace:
            with _loading(self.project):
                locations = workspace.locations()
            yield DagsterGateway(self.instance, lambda: locations)

    @cached_property
    def project(self) -> Path | None:
        """The directory of the dg project: the one given, or the one that this directory lies in; None if there is none."""
        start = (self._project or Path()).expanduser().absolute()
        for directory in (start, *start.parents):
            if _is_project(directory / "pyproject.toml"):
                return directory
        if self._project is not None:
            raise BadInput(f"--project {self._project}: there is no pyproject.toml with a [tool.dg] table")
        return None

    @cached_property
    def tasks(self) -> Sequence["KnownTask"]:
        """The tasks that the project declares, then those that only the record knows."""
        from agent_pipelines.insight.tasks import KnownTask, recorded_tasks

        declared: list[KnownTask] = []
        if self.project is not None:
            from agent_pipelines.definitions import declared_tasks

            with _loading(self.project):
                tasks = declared_tasks(self.project)
            declared = [
                KnownTask(
                    task,
                    task.source.where() or f"project {self.project}",
                    is_declared=True,
                    prompt_in=None if task.prompt is None else task.source.where(("prompt",)),
                )
                for task in tasks
            ]
        keys = {task.spec.key for task in declared}
        recorded = recorded_tasks(self.hub.database, self.hub.ledger)
        return [
            *sorted(declared, key=lambda task: task.spec.path),
            *(task for task in recorded if task.spec.key not in keys),
        ]

    @cached_property
    def declared(self) -> "Declared":
        """What the project declares for tasks that are registered. Raises BadInput without a project."""
        from agent_pipelines.definitions import declared

        if self.project is None:
            raise BadInput("there is no project here; name the directory that has its pyproject.toml with --project")
        with _loading(self.project):
            return declared(self.project)

    def registered(self, tasks: "Sequence[RegisteredTask]") -> Sequence["KnownTask"]:
        """Registered tasks with their specifications."""
        from agent_pipelines.insight.tasks import KnownTask

        registry = self.hub.registry
        return [
            KnownTask(
                registry.spec_of(task),
                f"registered, version {task.version} by {task.actor}",
                is_declared=False,
                version=task.version,
                state=task.state,
                reason=task.reason,
            )
            for task in tasks
        ]

    def keeps_time(self) -> bool:
        """Whether a daemon of ours keeps the time just now."""
        with self.hub.database.reading() as connection:
            return self.hub.daemons.keeps_time(connection)

    @cached_property
    def switched(self) -> Mapping[str, bool]:
        """The schedules and sensors that somebody has switched on or off."""
        from agent_pipelines.engine.switches import switched

        return switched(self.instance)

    def task(self, name: str) -> "KnownTask":
        """The task of a name, `application/task` or a bare one that only one application has. Raises BadInput.

        A registered task that is named with its application is found without loading the project.
        """
        application, slash, bare = name.rpartition("/")
        with self.hub.database.reading() as connection:
            if slash and (whole := self.hub.registered.get(connection, ("default", application, bare))) is not None:
                found = [] if whole.state == "removed" else [whole]
            else:
                found = self.hub.registered.named(connection, name)
            others = [] if found else self.hub.registered.list(connection, limit=1_000)
        if slash and found:
            return self.registered(found)[0]
        keys = [task.spec.key for task in self.tasks]
        key = _choose(name, [*keys, *(task.task_key for task in found)], also=[task.path for task in others])
        if key in keys:
            return next(task for task in self.tasks if task.spec.key == key)
        return self.registered([task for task in found if task.task_key == key])[0]

    def recorded_key(self, name: str) -> "TaskKey":
        """The key of a task that has run, without loading the project. Raises BadInput."""
        with self.hub.database.reading() as connection:
            keys = self.hub.ledger.specs.tasks(connection)
        return _choose(name, keys)

    def chosen(self, application: str | None, task: str | None, *, due: bool = False) -> tuple[str | None, str | None]:
        """The application and the name that a list is asked for, checked against what has run. Raises BadInput.

        `due`: tasks that have triggers do as well, even if none of them has ever run.
        """
        if application is None and task is None:
            return None, None
        with self.hub.database.reading() as connection:
            keys = list(self.hub.ledger.specs.tasks(connection))
            if due:
                keys = list(dict.fromkeys([*keys, *(each.task_key for each in self.hub.triggers.list(connection))]))
        if task is not None and "/" in task:
            _, application, task = _choose(task, keys)
        if application is not None and application not in (applications := sorted({key[1] for key in keys})):
            raise unknown("application that has run", application, applications)
        if task is not None and task not in (names := sorted({key[2] for key in keys})):
            raise unknown("task that has run", task, names)
        return application, task


def _choose(name: str, keys: Sequence["TaskKey"], *, also: Sequence[str] = ()) -> "TaskKey":
    """The key that a name means; `also` are paths that a wrong one may have meant."""
    found = [key for key in dict.fromkeys(keys) if name in (f"{key[1]}/{key[2]}", key[2])]
    if len(found) == 1:
        return found[0]
    paths = sorted({f"{key[1]}/{key[2]}" for key in found or keys})
    if found:
        raise BadInput(f"several tasks are named {name!r}: write {' or '.join(paths)}")
    raise unknown("task", name, [*paths, *also])


def _is_project(file: Path) -> bool:
    try:
        return "dg" in tomllib.loads(file.read_text()).get("tool", {})
    except (OSError, ValueError):
        return False


@contextlib.contextmanager
def _loading(project: Path) -> Generator[None]:
    # As Dagster's own processes do it: in the directory of the project, whose modules are found. What the project's code
    # prints on the way must not stand in the answer.
    if str(project) not in sys.path:
        sys.path.insert(0, str(project))
    with contextlib.chdir(project), contextlib.redirect_stdout(sys.stderr):
        yield
