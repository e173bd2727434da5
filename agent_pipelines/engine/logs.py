"""What our own loggers say, shown on standard error."""

import logging


def log_to_stderr(level: str = "info") -> None:
    """Show what our own loggers say; Dagster sets up its own."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    ours = logging.getLogger("agent_pipelines")
    ours.setLevel(level.upper())
    ours.addHandler(handler)
    ours.propagate = False
