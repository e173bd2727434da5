"""The definitions of a code location, loaded once and handed to every run."""

import importlib
import sys
import traceback
from collections.abc import Sequence

import dagster as dg
import psutil
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.definitions.reconstruct import ReconstructableRepository
from dagster._core.definitions.repository_definition import RepositoryDefinition
from dagster._core.execution.api import execute_run
from dagster._core.origin import RepositoryPythonOrigin
from dagster._serdes import serialize_value
from dagster._utils.error import serializable_error_info_from_exc_info
from dagster._utils.hosted_user_process import recon_repository_from_origin


class LoadError(Exception):
    """The definitions cannot be loaded; `error` is Dagster's form of why."""

    def __init__(self, words: str, error: str) -> None:
        super().__init__(words)
        self.error = error


@dg.op
def _nothing() -> None: ...


@dg.job(executor_def=dg.in_process_executor)
def _rehearsal() -> None:
    _nothing()


def preload(modules: Sequence[str]) -> None:
    """Import what runs need, and execute one that does nothing and leaves nothing: the next one finds all it needs."""
    for name in modules:
        importlib.import_module(name)
    silent = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    with dg.DagsterInstance.ephemeral() as instance:
        run = instance.create_run_for_job(_rehearsal, run_config=silent)
        execute_run(InMemoryJob(_rehearsal), run, instance)


class Code:
    """One code location."""

    def __init__(self, origin: RepositoryPythonOrigin) -> None:
        self._repository = recon_repository_from_origin(origin)
        self._definition: RepositoryDefinition | None = None

    def load(self) -> None:
        """Load the definitions, and let every reconstruction in this process and its forks have them. Raises LoadError."""
        try:
            self._definition = self._repository.get_definition()
        except BaseException as error:
            info = sys.exc_info()
            words = traceback.format_exception_only(_first(error))[-1].strip()
            raise LoadError(words, serialize_value(serializable_error_info_from_exc_info(info))) from error
        self._share(self._definition)

    def has_job(self, name: str) -> bool:
        """Whether there is a job of a name."""
        return self._definition is not None and self._definition.has_job(name)

    def _share(self, definition: RepositoryDefinition) -> None:
        # Dagster keeps one reconstructed job and would evaluate the definitions again for the next.
        pointer = self._repository.pointer
        stock = ReconstructableRepository.get_definition

        def get_definition(repository: ReconstructableRepository) -> RepositoryDefinition:
            data = repository.repository_load_data
            if repository.pointer == pointer and (data is None or data == definition.repository_load_data):
                return definition
            return stock(repository)

        ReconstructableRepository.get_definition = get_definition  # type: ignore[method-assign]


def threads_left(allowed: int) -> str | None:
    """What is wrong with a fork of this process because of threads, native ones too; None if nothing is."""
    threads = psutil.Process().num_threads() - 1
    if threads <= allowed:
        return None
    return (
        f"importing the code left {threads} thread{'s' if threads > 1 else ''} running, and allowed_threads of run_launcher is "
        f"{allowed}; start threads inside ops"
    )


def connections_left() -> str | None:
    """What is wrong with a fork of this process because of open connections; None if nothing is."""
    count = len(psutil.Process().net_connections(kind="inet"))
    return f"importing the code left {count} network connections open; open them inside ops" if count else None


def _first(error: BaseException) -> BaseException:
    while (cause := error.__cause__) is not None:
        error = cause
    return error
