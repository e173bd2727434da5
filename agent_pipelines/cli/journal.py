"""What an agent did, as lines that a person reads."""

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.text import Text

from agent_pipelines.cli import render

if TYPE_CHECKING:
    from agent_pipelines.ledger.journal import Entry

_STYLES = {"reasoning": "dim", "tool_call": "cyan", "tool_result": "cyan", "usage": "dim", "final": "dim"}
_MARGIN = 12


class JournalWriter:
    """Prints entries as they come; pieces of one text are one text."""

    def __init__(self) -> None:
        self._console = render.console()
        self._attempt = 0
        self._open: str | None = None

    def write(self, entries: "Iterable[Entry]") -> None:
        """Print further entries."""
        for entry in entries:
            if entry.attempt not in (0, self._attempt):
                self.finish()
                self._attempt = entry.attempt
                self._console.print(Text(f"attempt {entry.attempt}, {render.instant(entry.at)}", style="bold"))
            if entry.kind in ("text", "reasoning"):
                self._piece(entry.kind, str(entry.body.get("text", "")))
            else:
                self.finish()
                self._print(entry.kind, _words(entry), start=True, end="\n")

    def finish(self) -> None:
        """End the text that is being printed."""
        if self._open is not None:
            self._console.print()
            self._open = None

    def _piece(self, kind: str, piece: str) -> None:
        if self._open != kind:
            self.finish()
        self._print(kind, piece, start=self._open is None, end="")
        self._open = kind

    def _print(self, kind: str, words: str, *, start: bool, end: str) -> None:
        label = f"{kind.replace('_', ' '):<{_MARGIN}}" if start else ""
        indented = render.visible(words).replace("\n", "\n" + " " * _MARGIN)
        self._console.print(Text(label + indented, style=_STYLES.get(kind, "")), end=end, soft_wrap=True)


def _words(entry: "Entry") -> str:
    body = entry.body
    match entry.kind:
        case "tool_call":
            return f"{body.get('name')}({_compact(body.get('arguments'))})"
        case "tool_result":
            return f"{body.get('name')} {'failed' if body.get('is_error') else 'gave'} {_compact(body.get('output'))}"
        case "usage":
            usage = body.get("usage")
            known = {name: value for name, value in usage.items() if value is not None} if isinstance(usage, dict) else {}
            return ", ".join(f"{name} {value}" for name, value in known.items()) or render.UNKNOWN
        case "final":
            return str(body.get("finish_reason") or "done")
        case _:
            return _compact({name: value for name, value in body.items() if value is not None})


def _compact(value: object) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
