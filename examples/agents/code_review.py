"""The review of one commit of the bundled history."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from pydantic import Field

from examples.agents.agent import Agent
from examples.agents.facts import BadFactsError, Facts
from examples.agents.toolbox import Json, Toolbox, ToolError
from examples.code_review.repository import repository

RULES = "E7,E9,F,B"
"""What the linter looks for: wrong or dangerous code, not style."""

ERRORS = ("E9", "F82", "invalid-syntax")
"""Findings that fail when the code runs; the rest are warnings."""


class CodeReviewFacts(Facts):
    """What the review is told."""

    commit: str = Field(min_length=7, max_length=40)


class CodeReview(Agent[CodeReviewFacts]):
    """Reads a commit with git, lints the files it touched and reports what is wrong on the lines it wrote."""

    name: ClassVar[str] = "code-review"
    facts_type: ClassVar[type[Facts]] = CodeReviewFacts
    instructions: ClassVar[str] = (
        "You review one commit. Read it with show_commit, and look at what lint_commit finds on the lines that it wrote. "
        "Report real defects only, each with file and line; `verdict` is request_changes if there is any, else approve."
    )

    def tools(self) -> Sequence[Callable[..., Json]]:
        return (show_commit, lint_commit)

    def work(self, facts: CodeReviewFacts, tools: Toolbox) -> dict[str, Any]:
        try:
            commit = tools.call("show_commit", commit=facts.commit)
        except ToolError as error:
            raise BadFactsError(f"`commit`: {error}") from None
        findings = tools.call("lint_commit", commit=commit["commit"])
        return {
            "commit": commit["commit"],
            "title": commit["title"],
            "author": commit["author"],
            "size": commit["size"],
            "findings": findings,
            "verdict": "request_changes" if findings else "approve",
            "summary": _summary(commit, findings),
        }


def show_commit(commit: str) -> Json:
    """Title, author, size and diff of a commit."""
    try:
        known = repository().commit(commit)
    except LookupError as error:
        raise ToolError(str(error.args[0])) from None
    return {
        "commit": known.sha,
        "title": known.title,
        "author": known.author,
        "committed_at": known.committed_at,
        "size": repository().size(known.sha),
        "diff": repository().diff(known.sha),
    }


def lint_commit(commit: str) -> Json:
    """What the linter (ruff) finds on the lines that a commit wrote, in the Python files that it touched."""
    try:
        full = repository().commit(commit).sha
    except LookupError as error:
        raise ToolError(str(error.args[0])) from None
    changed = {path: lines for path, lines in repository().changed_lines(full).items() if path.endswith(".py")}
    if not changed:
        return []
    with tempfile.TemporaryDirectory(prefix="lint-") as name:
        directory = Path(name).resolve()
        for path in changed:
            target = directory / PurePosixPath(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(repository().text(full, path))
        reported = _ruff(directory)
    findings = [
        {
            "file": (path := Path(found["filename"]).relative_to(directory).as_posix()),
            "line": found["location"]["row"],
            "code": found["code"] or "invalid-syntax",
            "severity": "error" if (found["code"] or "invalid-syntax").startswith(ERRORS) else "warning",
            "message": found["message"],
            "source": repository().text(full, path).splitlines()[found["location"]["row"] - 1].strip(),
        }
        for found in reported
    ]
    on_changed_lines = [finding for finding in findings if finding["line"] in changed[finding["file"]]]
    return sorted(on_changed_lines, key=lambda finding: (finding["file"], finding["line"], finding["code"]))


def _ruff(directory: Path) -> list[dict[str, Any]]:
    options = (
        "--isolated",
        "--no-cache",
        "--exit-zero",
        "--output-format",
        "json",
        "--select",
        RULES,
        "--target-version",
        "py311",
    )
    command = [sys.executable, "-m", "ruff", "check", *options, str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ToolError(f"lint_commit: ruff ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    return json.loads(done.stdout)


def _summary(commit: dict[str, Any], findings: list[dict[str, Any]]) -> str:
    size = commit["size"]
    changed = f"{size['files']} file(s), +{size['added']} -{size['removed']}"
    if not findings:
        return f"{commit['commit'][:7]} {commit['title']}: {changed}; nothing found on the changed lines."
    errors = sum(finding["severity"] == "error" for finding in findings)
    found = ", ".join(f"{finding['code']} in {finding['file']}:{finding['line']}" for finding in findings)
    return f"{commit['commit'][:7]} {commit['title']}: {changed}; {len(findings)} finding(s), {errors} of them error(s): {found}."
