"""Warm start of runs: a process that has loaded everything forks one for each run. For one machine with `fork`."""

from agent_pipelines.engine.warm.launcher import WarmRunLauncher

__all__ = ["WarmRunLauncher"]
