"""How answers look: tables for people, one JSON document for programs.

Names of JSON fields are those of the record. Instants are ISO 8601 in UTC, durations seconds. Nothing is shown that has the
shape of a secret, and no control character of an agent's text reaches the terminal.
"""

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from agent_pipelines.core.clock import Microseconds, isoformat
from agent_pipelines.core.plain import record as record
from agent_pipelines.core.secrets import redactor

UNKNOWN = "unknown"
_STYLES = {
    **dict.fromkeys(("succeeded", "ran", "ok"), "green"),
    **dict.fromkeys(("failed", "lost", "missed", "launch_failed", "error"), "red"),
    **dict.fromkeys(("cancelled", "skipped", "deduplicated"), "yellow"),
    **dict.fromkeys(("running", "waiting", "open"), "cyan"),
}
# All control characters but tab and newline, and the marks that change the direction of writing.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_WIDE = 200  # columns where no terminal says how many it has
_NARROW = 40  # characters that a cell is never broken below
_GAP = 2  # characters between two columns
_SHORT = 18  # characters of an id that tell executions apart


def document(value: Mapping[str, Any]) -> None:
    """Print one JSON document."""
    print(json.dumps(redactor.value(value), indent=2, ensure_ascii=False))  # noqa: T201


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, empty: str) -> None:
    """Print a table; `empty` is what is said if it has no rows."""
    shown = [[_cell(value) for value in row] for row in rows]
    if not shown:
        text(empty)
        return
    grid = Table(box=None, pad_edge=False, header_style="bold")
    widths = [max(len(column), *(cell_len(row[number].plain) for row in shown)) for number, column in enumerate(columns)]
    for column, width in zip(columns, widths, strict=True):
        grid.add_column(column, overflow="fold", no_wrap=width <= _NARROW)
    for row in shown:
        grid.add_row(*row)
    # Rather lines that the terminal breaks than columns of three letters.
    needed = sum(min(width, _NARROW) + _GAP for width in widths) - _GAP
    target = console()
    (target if needed <= target.width else Console(highlight=False, width=needed)).print(grid)


def fields(pairs: Mapping[str, Any]) -> None:
    """Print names and values, one pair a line; those without a value are left out."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in pairs.items():
        if value is not None and value != "":
            grid.add_row(name, _cell(value))
    console().print(grid)


def heading(text: str) -> None:
    """Print the title of a part."""
    console().print()
    console().print(Text(visible(text), style="bold underline"))


def text(value: str) -> None:
    """Print text as it is."""
    console().print(Text(visible(value)), soft_wrap=True)


def note(value: str) -> None:
    """Tell something besides the answer, on stderr."""
    print(visible(value), file=sys.stderr)  # noqa: T201


def tree(root: Tree) -> None:
    """Print a tree."""
    console().print(root)


def more(shown: Sequence[Any], limit: int, last: int | None) -> None:
    """Say how to see the next page, if there may be one."""
    if last is not None and len(shown) == limit:
        note(f"older ones: --before {last}")


def console() -> Console:
    """Where answers are printed."""
    plain = Console(highlight=False)
    return plain if plain.is_terminal else Console(highlight=False, width=max(_WIDE, plain.width))


def visible(value: str) -> str:
    """The text without secrets, and with control characters made visible: an agent must not steer a terminal."""
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], redactor.text(value.replace("\r\n", "\n")))


def instant(value: Microseconds | None) -> str | None:
    """An instant to the second."""
    return None if value is None else isoformat(value - value % 1_000_000)


def seconds(value: float | None) -> str | None:
    """A duration."""
    if value is None:
        return None
    if value < 1:
        return f"{value * 1_000:.0f} ms"
    if value < 120:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} m" if hours else f"{minutes} m {rest:02} s"


def tokens(value: int | None) -> str:
    """A number of tokens."""
    return UNKNOWN if value is None else f"{value:,}"


def cost(value: float | None) -> str:
    """Money; what is not known is not zero."""
    return UNKNOWN if value is None else f"${value:,.4f}" if value < 1 else f"${value:,.2f}"


def short(identifier: str | None) -> str | None:
    """The beginning of an id, enough to name it again."""
    return None if identifier is None else identifier[:_SHORT]


def brief(value: Any, length: int = 80) -> str:
    """A value in one line, cut where it is too long."""
    line = " ".join((value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)).split())
    return line if len(line) <= length else line[: length - 1] + "…"


def yaml(value: Any) -> str:
    """A JSON value as YAML."""
    import yaml as pyyaml

    return pyyaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=120).rstrip()


def indented(value: Any) -> str:
    """A JSON value over several lines."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def _cell(value: Any) -> Text:
    words = "" if value is None else str(value)
    return Text(visible(words), style=_STYLES.get(words, ""))
