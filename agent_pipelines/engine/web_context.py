"""What Dagster's web server works on: an instance and the code locations of a workspace."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from dagster import DagsterInstance, __version__
from dagster._core.workspace.context import BaseWorkspaceRequestContext, WorkspaceProcessContext
from dagster._core.workspace.load_target import PyProjectFileTarget, WorkspaceFileTarget

from agent_pipelines.engine.server_watch import watch_code_servers_calmly

# As Dagster's own command sets them.
_STATEMENT_TIMEOUT = 15_000  # milliseconds
_POOL_RECYCLE = 3_600  # seconds
_POOL_OVERFLOW = 20

WebContext = WorkspaceProcessContext
"""For the room that serves it."""


@contextmanager
def web_context(instance: DagsterInstance, file: Path) -> Generator[WebContext]:
    """Load the workspace that a file names, and keep it up to date while the block runs.

    `file` is a workspace.yaml, or a pyproject.toml with a `tool.dg` or `tool.dagster` section.
    """
    instance.optimize_for_webserver(_STATEMENT_TIMEOUT, _POOL_RECYCLE, _POOL_OVERFLOW)
    watch_code_servers_calmly()
    target = PyProjectFileTarget(str(file)) if file.suffix == ".toml" else WorkspaceFileTarget([str(file)])
    with WorkspaceProcessContext(
        instance, version=__version__, workspace_load_target=target, code_server_log_level="warning"
    ) as context:
        yield context


def request_context(context: WebContext) -> BaseWorkspaceRequestContext:
    """The code locations as they are now."""
    return context.create_request_context()
