"""Doing what a page says, in a directory of its own."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from agent_pipelines_tests.docs.markdown import ROOT, Block, blocks

# What other tests run, or what would not end.
_LEFT_TO_OTHERS = re.compile(r"\s*make (demo|test|up|bench|check|docs)\b.*")
_MARK = "-- {} --"
_END = "END_OF_THE_BLOCK"


@dataclass(frozen=True)
class Followed:
    """What came of a block of commands; `expected` is what the page shows."""

    block: Block
    printed: str
    expected: str | None


class PageFailed(AssertionError):
    """A command of a page failed."""


def script(page: Path) -> str:
    """The page as a shell script: its commands, and its files as they are when their turn comes."""
    parts = ["set -eu", "exec 2>&1"]
    if page.parent.name == "how-to":
        parts += ["agent-pipelines init my-agents > /dev/null", "cd my-agents", "agent-pipelines up"]
    for block in blocks(page):
        if not block.is_run:
            continue
        if block.language == "bash":
            lines = [line for line in block.text.splitlines() if not _LEFT_TO_OTHERS.fullmatch(line)]
            parts += [f"echo; echo {_MARK.format(block.line)!r}", *lines]
        elif block.file is not None:
            parts += [f"mkdir -p {Path(block.file).parent}", f"cat > {block.file} <<'{_END}'", block.content.rstrip("\n"), _END]
        elif block.language == "python":
            parts += [f"echo; echo {_MARK.format(block.line)!r}", f"python - <<'{_END}'", block.text.rstrip("\n"), _END]
    return "\n".join(parts) + "\n"


def follow(page: Path, directory: Path, commands: Path, variables: Mapping[str, str]) -> list[Followed]:
    """Run the commands of a page; raises PageFailed with what was printed before the one that failed.

    `commands` is a directory of programs that go before all others. The checkout is found beside the project.
    """
    (directory / "agent-pipelines").symlink_to(ROOT)
    path = os.pathsep.join([str(commands), str(Path(sys.executable).parent), "/usr/local/bin", "/usr/bin", "/bin"])
    environment = {"PATH": path, "HOME": str(directory), "LANG": "C.UTF-8", "DAGSTER_DISABLE_TELEMETRY": "1", **variables}
    try:
        done = subprocess.run(
            ["bash", "-c", script(page)], cwd=directory, env=environment, capture_output=True, text=True, check=False
        )
    finally:
        for home in directory.glob("*/.dagster_home"):
            (home / "stop").touch()
    if done.returncode != 0:
        raise PageFailed(f"{page.name} ended with exit code {done.returncode}:\n{done.stdout[-4_000:]}{done.stderr}")
    printed = dict(_by_line(done.stdout))
    found: list[Followed] = []
    for block in blocks(page):
        if block.line in printed:
            found.append(Followed(block, printed[block.line], None))
        elif block.language == "text" and found and found[-1].expected is None and block.is_run:
            found[-1] = Followed(found[-1].block, found[-1].printed, block.text)
    return found


def _by_line(printed: str) -> Iterator[tuple[int, str]]:
    parts = re.split("\n?" + _MARK.format(r"(\d+)") + "\n", printed)
    yield from ((int(number), text) for number, text in zip(parts[1::2], parts[2::2], strict=True))


_VARYING = [
    (re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}(-[0-9a-f-]*)?"), "ID"),
    (re.compile(r"\b(?=[0-9a-f]*\d)[0-9a-f]{12,64}\b"), "HASH"),
    (re.compile(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d(:[\d.]+)?Z"), "INSTANT"),
    (re.compile(r"\b\d+(\.\d+)? m?s\b"), "LENGTH"),
    (re.compile(r"\bcli:\w+"), "cli:ACTOR"),
]


def told(text: str) -> list[str]:
    """The lines of an output without what is another one each time: ids, hashes, instants, lengths, spaces."""
    for pattern, word in _VARYING:
        text = pattern.sub(word, text)
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


def shows(expected: str, printed: str) -> bool:
    """Whether a page shows what was printed; a line `…` stands for any lines."""
    wanted, given = told(expected), told(printed)
    parts = ["(?:.*\n)*" if line == "…" else re.escape(line) + "\n" for line in wanted]
    return re.fullmatch("".join(parts), "".join(f"{line}\n" for line in given)) is not None
