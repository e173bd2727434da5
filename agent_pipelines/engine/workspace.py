"""The code locations of a workspace, loaded without a webserver or a daemon."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from dagster import DagsterInstance
from dagster._core.remote_origin import (
    CodeLocationOrigin,
    GrpcServerCodeLocationOrigin,
    InProcessCodeLocationOrigin,
    ManagedGrpcPythonEnvCodeLocationOrigin,
)
from dagster._core.remote_representation.code_location import CodeLocation, InProcessCodeLocation
from dagster._core.workspace.load_target import PyProjectFileTarget, WorkspaceFileTarget

from agent_pipelines.core.errors import DefinitionError
from agent_pipelines.core.secrets import redactor


class Workspace:
    """The code locations that a workspace file names, under the same names as in the webserver and the daemon.

    Code of our own Python is loaded into this process, which is much faster than a server process for it. Use it as a
    context manager. `file` is a workspace.yaml, or a pyproject.toml with a `tool.dg` or `tool.dagster` section.
    """

    def __init__(self, instance: DagsterInstance, file: Path) -> None:
        self._instance = instance
        self._file = file
        self._stack = ExitStack()
        self._locations: Sequence[CodeLocation] | None = None

    @classmethod
    def of_directory(cls, instance: DagsterInstance, directory: Path) -> Self:
        """The workspace of a project directory. Raises DefinitionError if it has no workspace file."""
        for name in ("workspace.yaml", "pyproject.toml"):
            if (directory / name).exists():
                return cls(instance, directory / name)
        raise DefinitionError(
            "there is no workspace.yaml and no pyproject.toml", file=directory, fix="Run this in the directory of a project"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._stack.close()

    def locations(self) -> Sequence[CodeLocation]:
        """The code locations, loaded on first use. Raises DefinitionError if one cannot be loaded."""
        if self._locations is None:
            self._locations = [self._load(origin) for origin in self._origins()]
        return self._locations

    def _origins(self) -> Sequence[CodeLocationOrigin]:
        try:
            origins = self._named()
        except Exception as error:
            raise DefinitionError(f"not a workspace: {redactor.text(str(error))}", file=self._file) from error
        if not origins:
            raise DefinitionError("names no code location", file=self._file)
        return origins

    def _named(self) -> Sequence[CodeLocationOrigin]:
        if self._file.suffix != ".toml":
            return WorkspaceFileTarget([str(self._file)]).create_origins()
        return [
            # Dagster takes the directory that it was started in: that of the project, for the webserver and the daemon.
            origin._replace(
                loadable_target_origin=origin.loadable_target_origin._replace(working_directory=str(self._file.absolute().parent))
            )
            for origin in PyProjectFileTarget(str(self._file)).create_origins()
            if isinstance(origin, ManagedGrpcPythonEnvCodeLocationOrigin)
        ]

    def _load(self, origin: CodeLocationOrigin) -> CodeLocation:
        try:
            match origin:
                case ManagedGrpcPythonEnvCodeLocationOrigin() if not origin.loadable_target_origin.executable_path:
                    return _InThisProcess(origin, self._instance, self._file.absolute().parent)
                case ManagedGrpcPythonEnvCodeLocationOrigin():
                    return self._stack.enter_context(origin.create_single_location(self._instance))
                case GrpcServerCodeLocationOrigin():
                    return self._stack.enter_context(origin.create_location(self._instance))
                case _:
                    raise DefinitionError(f"a code location of kind {type(origin).__name__} is not supported", file=self._file)
        except DefinitionError:
            raise
        except Exception as error:  # the user's code may raise anything
            cause = error
            while cause.__cause__ is not None and isinstance(cause.__cause__, Exception):
                cause = cause.__cause__
            words = redactor.text(f"{type(cause).__name__}: {cause}")
            raise DefinitionError(f"code location {origin.location_name!r} cannot be loaded: {words}", file=self._file) from error


class _InThisProcess(InProcessCodeLocation):
    """A location that is loaded here but known under the origin that the other processes know it by.

    Runs, schedules and sensors are found again by what their origin says.
    """

    def __init__(
        self, origin: ManagedGrpcPythonEnvCodeLocationOrigin, instance: DagsterInstance, working_directory: Path
    ) -> None:
        self._known_as = origin
        target = origin.loadable_target_origin
        # A server process finds modules of the directory it was started in; a console script does not.
        target = target._replace(working_directory=target.working_directory or str(working_directory))
        super().__init__(InProcessCodeLocationOrigin(target, location_name=origin.location_name), instance)

    @property
    def origin(self) -> CodeLocationOrigin:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self._known_as
