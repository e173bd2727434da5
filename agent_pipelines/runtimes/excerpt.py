"""What others said, in our error messages."""

from agent_pipelines.core.secrets import redactor


def excerpt(text: str, limit: int = 400) -> str:
    """The beginning of a text, without secrets and on one line."""
    line = _line(text)
    return line if len(line) <= limit else line[: limit - 1] + "…"


def ending(text: str, limit: int = 400) -> str:
    """The end of a text, without secrets and on one line."""
    line = _line(text)
    return line if len(line) <= limit else "…" + line[1 - limit :]


def _line(text: str) -> str:
    # Secrets first: cut in two they would not be recognised.
    return " ".join(redactor.text(text).split())
