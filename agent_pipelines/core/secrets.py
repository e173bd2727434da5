"""Keeping secret values out of everything that is written."""

import re
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import JsonValue, SecretStr

REPLACEMENT = "[secret]"

# Shapes that are credentials whoever owns them; known values are replaced first and catch the rest.
_SHAPES = re.compile(
    r"""(?ix)
    (?<=\bbearer\s)(?=\S*\d)[a-z0-9._~+/=-]{12,}
    | (?<=\bbasic\s)(?=\S*[\d=])[a-z0-9+/=]{12,}
    | \bsk-[a-z0-9_-]{8,}
    | \bapcb-[a-z0-9_-]{20,}
    | \b(?:gh[pousr]|xox[baprs]|glpat|AIza|AKIA)[-_]?[a-z0-9-]{12,}
    | (?<=://)[^\s/:@]*:[^\s/@]+(?=@)
    | \beyJ[a-z0-9_-]{8,}\.[a-z0-9_-]{8,}\.[a-z0-9_-]*
    | (?<=-----BEGIN\ PRIVATE\ KEY-----)[^-]+
    """
)

# One of these is in whatever has such a shape: to look for them takes a fraction of the time.
_HINTS = (
    *("bearer", "basic", "sk-", "apcb-", "ghp", "gho", "ghu", "ghs", "ghr", "xox", "glpat", "aiza", "akia"),
    *("://", "eyj", "-----begin"),
)


class Redactor:
    """Replaces registered secret values, and text that has the shape of a credential, by a marker."""

    def __init__(self) -> None:
        self._values: set[str] = set()
        self._pattern: re.Pattern[str] | None = None
        self._lock = threading.Lock()

    def register(self, value: str | SecretStr | None) -> None:
        """Remember a value that must never be written. Values under four characters are not secrets."""
        plain = value.get_secret_value() if isinstance(value, SecretStr) else value
        if not plain or len(plain) < 4:
            return
        with self._lock:
            self._values.add(plain)
            longest_first = sorted(self._values, key=len, reverse=True)
            self._pattern = re.compile("|".join(re.escape(known) for known in longest_first))

    def text(self, text: str) -> str:
        """Return the text without secrets."""
        if self._pattern is not None:
            text = self._pattern.sub(REPLACEMENT, text)
        folded = text.casefold()
        return _SHAPES.sub(REPLACEMENT, text) if any(map(folded.__contains__, _HINTS)) else text

    def value(self, value: Any) -> JsonValue:
        """Return a JSON-like value without secrets, in its strings and in the keys of its objects."""
        if isinstance(value, str):
            return self.text(value)
        if value is None or isinstance(value, int | float):
            return value
        if isinstance(value, Mapping):
            return {self.text(str(key)): self.value(item) for key, item in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        if isinstance(value, Sequence):
            return [self.value(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
        return value


redactor = Redactor()
"""The one of this process. Secrets are registered where they enter: resources, settings, the environment."""
