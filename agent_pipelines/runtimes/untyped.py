"""Reading answers of which nothing is certain: what is not of the expected kind counts as missing."""

from typing import Any


def as_mapping(value: object) -> dict[str, Any]:
    """An object, empty if it is none."""
    return value if isinstance(value, dict) else {}


def as_list(value: object) -> list[Any]:
    """A list, empty if it is none."""
    return value if isinstance(value, list) else []


def as_text(value: object) -> str:
    """A text, empty if it is none."""
    return value if isinstance(value, str) else ""


def as_count(value: object) -> int | None:
    """A whole number; None if it is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None
