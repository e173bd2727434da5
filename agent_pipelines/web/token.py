"""The bearer token of the HTTP interface."""

import hashlib
import hmac
import os
import secrets
import stat
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from agent_pipelines.core.errors import AgentPipelinesError
from agent_pipelines.core.secrets import redactor

FILE_NAME = "api_token"
VARIABLE = "AGENT_PIPELINES_API_TOKEN"

_SHORTEST = 32  # characters of a token that somebody else has made


class TokenError(AgentPipelinesError):
    """The token cannot be used: says what would be right."""


class ApiToken:
    """The one token of a deployment. It is kept out of everything that is written."""

    def __init__(self, value: str) -> None:
        redactor.register(value)
        self._digest = _digest(value)

    @classmethod
    def of_home(cls, home: Path, environment: Mapping[str, str]) -> "ApiToken":
        """The token that the environment names, else the one in the file of the deployment, which is made if there is none.

        Raises TokenError for one that is short, or that others can read.
        """
        value = environment.get(VARIABLE)
        if value is not None:
            return cls(_checked(value, f"${VARIABLE}"))
        file = home / FILE_NAME
        _make(file)
        if stat.S_IMODE(file.stat().st_mode) & 0o077:
            raise TokenError(f"{file} can be read by others: run `chmod 600 {file}`, or give the token in ${VARIABLE}")
        return cls(_checked(file.read_text(encoding="utf-8").strip(), str(file)))

    def is_in(self, authorization: str | None) -> bool:
        """Whether an Authorization header bears the token; takes as long whatever it bears."""
        scheme, _, value = (authorization or "").partition(" ")
        is_same = hmac.compare_digest(_digest(value.strip()), self._digest)
        return is_same and scheme.lower() == "bearer"


def _make(file: Path) -> None:
    if file.exists():
        return
    # It gets its name when it is written: a second process never reads half of it. mkstemp keeps others out.
    descriptor, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{FILE_NAME}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as opened:
            opened.write(secrets.token_urlsafe(32) + "\n")
        with suppress(FileExistsError):
            os.link(temporary, file)
    finally:
        os.unlink(temporary)


def _checked(value: str, place: str) -> str:
    if len(value) < _SHORTEST:
        raise TokenError(f"the token in {place} has {len(value)} characters; use {_SHORTEST} or more, drawn at random")
    return value


def _digest(value: str) -> bytes:
    return hashlib.sha256(value.encode()).digest()
