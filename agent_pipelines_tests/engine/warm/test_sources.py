"""What counts as a change of the code. Files are old enough not to have been written during the load."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

_PROGRAM = """
import importlib, json, os, pathlib, sys, time
from agent_pipelines.engine.warm.sources import Sources

root = pathlib.Path(sys.argv[1])
sys.path.insert(0, str(root))
sources = Sources(root / "home")
with sources.noting():
    importlib.import_module("sources_of_test")
    (root / "prompt.md").read_text()
    (root / "home" / "runs.db").read_bytes()
    (root / "written.txt").write_text("by the load")
    list((root / "defs").iterdir())
print(json.dumps(sources.changed()), flush=True)
for line in sys.stdin:
    exec(line)
    print(json.dumps(sources.changed()), flush=True)
"""

_CHANGES = [
    ("(root / 'sources_of_test.py').write_text('VALUE = 2')", "sources_of_test.py"),
    ("(root / 'prompt.md').write_text('Say more')", "prompt.md"),
    ("(root / 'prompt.md').unlink()", "prompt.md"),
    ("(root / 'defs' / 'new').mkdir()", "defs"),
    ("(root / 'defs' / '__pycache__').mkdir()", None),
    ("(root / 'unread.md').write_text('never read')", None),
    ("(root / 'written.txt').write_text('again')", None),
    ("(root / 'home' / 'runs.db').write_text('new')", None),
]


@pytest.mark.parametrize(("change", "expected"), _CHANGES)
def test_a_change_is_seen(tmp_path: Path, change: str, expected: str | None) -> None:
    (tmp_path / "sources_of_test.py").write_text("VALUE = 1")
    (tmp_path / "prompt.md").write_text("Say something")
    for folder in ("defs", "home"):
        (tmp_path / folder).mkdir()
    (tmp_path / "home" / "runs.db").write_text("old")
    time.sleep(0.05)  # more than the clock of a file system may be behind
    process = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(tmp_path)], input=f"{change}\n", capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    before, after = (json.loads(line) for line in process.stdout.splitlines())
    assert before is None
    assert after == (None if expected is None else str(tmp_path / expected))


def test_what_is_written_while_it_is_read_has_changed(tmp_path: Path) -> None:
    program = _PROGRAM.replace("with sources", "(root / 'prompt.md').write_text('now')\nwith sources")
    (tmp_path / "sources_of_test.py").write_text("")
    (tmp_path / "defs").mkdir()
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "runs.db").write_text("old")
    time.sleep(0.05)  # more than the clock of a file system may be behind
    process = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], input="", capture_output=True, text=True, check=False
    )
    assert json.loads(process.stdout) == str(tmp_path / "prompt.md"), process.stderr
