"""The bundled history, read with git."""

import functools
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from examples.code_review.git import git

BUNDLE = Path(__file__).with_name("repository.bundle")

_HUNK = re.compile(r"^@@ -\d+(?:,\d+)? \+(?P<start>\d+)(?:,(?P<count>\d+))? @@")


@dataclass(frozen=True)
class Commit:
    """What git says about a commit."""

    sha: str
    title: str
    author: str
    committed_at: str


class Repository:
    """A clone of a bundle in a temporary directory, which goes with this object."""

    def __init__(self, bundle: Path) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="code-review-")
        self.path = Path(self._directory.name)
        git(self.path, "clone", "--quiet", "--bare", "--branch", "main", str(bundle), ".")

    def commits(self) -> list[Commit]:
        """All commits, oldest first."""
        lines = git(self.path, "log", "--reverse", "--format=%H%x09%an%x09%cI%x09%s", "main").splitlines()
        fields = [line.split("\t", 3) for line in lines]
        return [Commit(sha=sha, author=author, committed_at=at, title=title) for sha, author, at, title in fields]

    def commit(self, name: str) -> Commit:
        """A commit by its hash, seven digits at least. Raises LookupError if there is none."""
        if re.fullmatch(r"[0-9a-f]{7,40}", name):
            for known in self.commits():
                if known.sha.startswith(name):
                    return known
        raise LookupError(f"the repository has no commit {name!r} on main")

    def diff(self, commit: str) -> str:
        """The change as git shows it."""
        return git(self.path, "show", "--format=", "--no-color", "--no-ext-diff", "--no-renames", commit)

    def size(self, commit: str) -> dict[str, int]:
        """Files, added lines and removed lines."""
        rows = git(self.path, "show", "--format=", "--numstat", "--no-renames", commit).splitlines()
        counts = [row.split("\t") for row in rows if row]
        # Git counts `-` for a binary file.
        added, removed = (sum(int(row[column]) for row in counts if row[column] != "-") for column in (0, 1))
        return {"files": len(counts), "added": added, "removed": removed}

    def changed_lines(self, commit: str) -> dict[str, set[int]]:
        """Lines that a commit wrote, by file, counted from 1; a file that it deleted is left out."""
        arguments = ("diff-tree", "--root", "--no-commit-id", "-p", "--unified=0", "--no-color", "--no-ext-diff", "--no-renames")
        changed: dict[str, set[int]] = {}
        name: str | None = None
        in_header = False
        for line in git(self.path, *arguments, commit).splitlines():
            if line.startswith("diff --git "):
                name, in_header = None, True
            elif in_header and line.startswith("+++ "):
                name = None if line == "+++ /dev/null" else line.removeprefix("+++ b/")
            elif (hunk := _HUNK.match(line)) and name is not None:
                in_header = False
                start, count = int(hunk["start"]), int(hunk["count"] or 1)
                changed.setdefault(name, set()).update(range(start, start + count))
        return changed

    def text(self, commit: str, path: str) -> str:
        """A file as it is after a commit. Raises LookupError if it is not there."""
        try:
            return git(self.path, "show", f"{commit}:{path}")
        except subprocess.CalledProcessError:
            raise LookupError(f"{commit[:7]} has no file {path!r}") from None


@functools.cache
def repository() -> Repository:
    """The bundled history, cloned once a process."""
    return Repository(BUNDLE)
