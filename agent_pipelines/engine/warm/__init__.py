"""Warm start of runs: a process that has loaded everything forks one for each run. For one machine with `fork`.

The launcher is imported when it is first used: who only looks for warm processes needs none of Dagster.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agent_pipelines.engine.warm.launcher import WarmRunLauncher as WarmRunLauncher

__all__ = ["WarmRunLauncher"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from agent_pipelines.engine.warm.launcher import WarmRunLauncher

    return WarmRunLauncher
