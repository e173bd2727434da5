"""Values that both databases can hold."""

import math

from pydantic import JsonValue


def storable_text(text: str) -> str:
    """Return the text without what PostgreSQL or UTF-8 cannot hold: NUL becomes U+FFFD, a lone surrogate `?`."""
    if text.isascii():  # which is what most texts are, and can be told at once
        return text.replace("\0", "\ufffd")
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")


def storable(value: JsonValue) -> JsonValue:
    """Return a JSON value with all its texts and keys made storable; a number that JSON does not know becomes null."""
    if isinstance(value, str):
        return storable_text(value)
    if isinstance(value, list):
        return [storable(item) for item in value]
    if isinstance(value, dict):
        return {storable_text(key): storable(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
