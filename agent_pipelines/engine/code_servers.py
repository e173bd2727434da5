"""How the code servers of a workspace are started, and how many workers beside them.

    python -m agent_pipelines.engine.code_servers DIRECTORY [--workspace FILE]

Writes into the directory `workspace.yaml`, by which web server and daemon reach them, `code_servers.json`: name, socket and
command of each, and `workers.json`: the number of workers. It is a process of its own: the one that keeps them alive then has no
Dagster in its memory.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from dagster import DagsterInstance
from dagster._core.origin import get_python_environment_entry_point
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin, ManagedGrpcPythonEnvCodeLocationOrigin
from dagster._core.workspace.load_target import PyProjectFileTarget, WorkspaceFileTarget
from dagster._grpc.constants import GrpcServerCommand
from dagster._serdes import serialize_value


def write_plan(instance: DagsterInstance, workspace: Path | None, directory: Path) -> None:
    """Write the files. Code servers that somebody else starts are in the workspace file only."""
    target = PyProjectFileTarget("pyproject.toml") if workspace is None else WorkspaceFileTarget([str(workspace)])
    servers: list[dict[str, Any]] = []
    reached: list[dict[str, Any]] = []
    for number, origin in enumerate(target.create_origins()):
        if isinstance(origin, ManagedGrpcPythonEnvCodeLocationOrigin):
            socket = str(directory / f"code{number}")
            servers.append({"name": origin.location_name, "socket": socket, "command": _command(instance, origin, socket)})
            loaded = origin.loadable_target_origin.as_dict
            reached.append(
                {"location_name": origin.location_name, "socket": socket, "host": "localhost", "additional_metadata": loaded}
            )
        elif isinstance(origin, GrpcServerCodeLocationOrigin):
            told = {name: getattr(origin, name) for name in ("location_name", "host", "port", "socket", "additional_metadata")}
            reached.append({name: value for name, value in told.items() if value is not None})
    (directory / "workspace.yaml").write_text(yaml.safe_dump({"load_from": [{"grpc_server": each} for each in reached]}))
    (directory / "code_servers.json").write_text(json.dumps(servers))
    (directory / "workers.json").write_text(json.dumps(_local_workers(instance)))


def _command(instance: DagsterInstance, origin: ManagedGrpcPythonEnvCodeLocationOrigin, socket: str) -> list[str]:
    # As Dagster's ProxyServerManager does it, but for the heartbeat: who keeps these alive stops them, too.
    target = origin.loadable_target_origin
    return [
        *get_python_environment_entry_point(target.executable_path or sys.executable),
        *GrpcServerCommand.CODE_SERVER_START.server_command,
        *("--socket", socket, "--log-level", "WARNING", "--inject-env-vars-from-instance"),
        *("--startup-timeout", str(instance.code_server_process_startup_timeout)),
        *(["--use-python-environment-entry-point"] if target.executable_path else []),
        *("--instance-ref", serialize_value(instance.get_ref())),
        *("--location-name", origin.location_name),
        *target.get_cli_args(),
    ]


def _local_workers(instance: DagsterInstance) -> int:
    # As it stands in the settings: whether the launcher can be made of them, the daemon tells.
    launcher = instance.get_ref().run_launcher_data
    if launcher is None or not f"{launcher.module_name}.".startswith("agent_pipelines.engine.celery."):
        return 0
    number = (yaml.safe_load(launcher.config_yaml) or {}).get("local_workers", 0)
    return number if isinstance(number, int) else 0


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--workspace", type=Path, help="workspace file; without it the pyproject.toml of this directory")
    given = parser.parse_args(arguments)
    with DagsterInstance.get() as instance:
        write_plan(instance, given.workspace, given.directory)


if __name__ == "__main__":
    main()
