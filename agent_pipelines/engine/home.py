"""The Dagster instance of this process, found as Dagster finds it: by DAGSTER_HOME."""

import os
from pathlib import Path

from dagster import DagsterInstance, DagsterInvalidConfigError
from dagster._core.launcher import RunLauncher

from agent_pipelines.core.errors import AgentPipelinesError
from agent_pipelines.core.secrets import redactor

VARIABLE = "DAGSTER_HOME"

Instance = DagsterInstance
"""For rooms that pass an instance on."""


class HomeError(AgentPipelinesError):
    """The directory that DAGSTER_HOME names cannot be used: says what to set."""


def instance_of_home() -> DagsterInstance:
    """Open the instance that DAGSTER_HOME names. Raises HomeError if there is none, or if its settings cannot be used."""
    home = os.environ.get(VARIABLE)
    if not home:
        raise HomeError(
            f"{VARIABLE} is not set; name the directory of the deployment with --home DIRECTORY or `export {VARIABLE}=/its/path`"
            " (`agent-pipelines up` keeps it in .dagster_home of the project)"
        )
    path = Path(home).expanduser()
    if not path.is_absolute():
        raise HomeError(f"{VARIABLE} is {home!r}, which is not an absolute path; write {path.absolute()}")
    if not path.is_dir():
        raise HomeError(f"{VARIABLE} is {home!r}, where no directory is; make it, or name another")
    try:
        return DagsterInstance.get()
    except Exception as error:  # the storage that the settings name may raise anything
        raise _refused(path, error) from error


def run_launcher_of(instance: DagsterInstance) -> RunLauncher[DagsterInstance]:
    """The launcher that the settings name, which Dagster makes when it is first asked for. Raises HomeError."""
    try:
        return instance.run_launcher
    except AgentPipelinesError:
        raise
    except Exception as error:
        raise _refused(Path(instance.root_directory), error) from error


def _refused(home: Path, error: Exception) -> HomeError:
    told = [each.message for each in error.errors] if isinstance(error, DagsterInvalidConfigError) else []
    reason = error.__cause__ or error
    words = " ".join(redactor.text("; ".join(told) or str(reason) or type(reason).__name__).split())
    return HomeError(f"{home / 'dagster.yaml'}: Dagster cannot use these settings: {words}")
