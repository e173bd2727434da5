"""Reading the pages of the documentation."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
NOT_RUN = "not run by tests:"

_FENCE = re.compile(r"(?P<indent> *)```(?P<language>\w*)\s*")
_COMMENT = re.compile(r"<!--\s*(?P<words>.*?)\s*-->")
_FILE = re.compile(r"\s*(?:#|<!--)\s*(?P<path>[\w./-]+\.(?:yaml|json|md|py|sql|toml|ipynb)|[\w-]+/[\w./-]+)\s*(?:-->)?\s*")


@dataclass(frozen=True)
class Block:
    """A fenced block; `note` is the HTML comment on the line before it, `line` where its text begins."""

    language: str
    text: str
    line: int
    note: str

    @property
    def is_run(self) -> bool:
        """Whether the tests run it, or write its file."""
        return not self.note.startswith(NOT_RUN)

    @property
    def file(self) -> str | None:
        """The file whose content this is, if its first line names one in a comment."""
        found = _FILE.fullmatch(self.text.partition("\n")[0])
        return None if found is None or self.language in ("bash", "text") else found["path"]

    @property
    def content(self) -> str:
        """What stands in the file. In Markdown the line with its name is no part of it."""
        return self.text.partition("\n")[2] if self.language == "markdown" else self.text


def pages() -> list[Path]:
    """All pages: README.md and everything below docs/, design notes apart."""
    found = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [page for page in found if page.parent.name != "design"]


def name(page: Path) -> str:
    """The page as tests and people name it."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    language, indent, note, start = None, "", "", 0
    held: list[str] = []
    before = ""
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        fence = _FENCE.fullmatch(line)
        if fence is None:
            if language is not None:
                held.append(line.removeprefix(indent))
            elif line.strip():
                before = line
        elif language is None:
            language, indent, start = fence["language"], fence["indent"], number + 1
            comment = _COMMENT.fullmatch(before.strip())
            note = "" if comment is None else comment["words"]
            held = []
        else:
            yield Block(language, "\n".join(held) + "\n", start, note)
            language, before = None, ""
    assert language is None, f"{name(page)}: the block that begins at line {start} has no end"
