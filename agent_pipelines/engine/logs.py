"""What our own loggers say, shown on standard error."""

import logging

from agent_pipelines.core.secrets import redactor


def log_to_stderr(level: str = "info") -> None:
    """Show what our own loggers say, without secrets; Dagster sets up its own."""
    handler = logging.StreamHandler()
    handler.setFormatter(_WithoutSecrets("%(asctime)s %(levelname)s %(name)s %(message)s"))
    ours = logging.getLogger("agent_pipelines")
    ours.setLevel(level.upper())
    ours.addHandler(handler)
    ours.propagate = False


class _WithoutSecrets(logging.Formatter):
    """Tracebacks, too, quote what failed."""

    def format(self, record: logging.LogRecord) -> str:
        return redactor.text(super().format(record))
