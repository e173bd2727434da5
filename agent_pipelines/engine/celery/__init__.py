"""Runs on several machines: a launcher that sends them to workers over Celery, and the worker. Needs the extra `celery`.

Claims and workers are rows: who only reads them needs neither Celery nor Dagster.
"""

from typing import TYPE_CHECKING, Any

from agent_pipelines.core.errors import MissingExtraError

if TYPE_CHECKING:
    from agent_pipelines.engine.celery.launcher import ClaimingCeleryRunLauncher as ClaimingCeleryRunLauncher

__all__ = ["ClaimingCeleryRunLauncher"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from agent_pipelines.engine.celery.launcher import ClaimingCeleryRunLauncher
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "celery", "celery", "running on several machines") from error
    return ClaimingCeleryRunLauncher
