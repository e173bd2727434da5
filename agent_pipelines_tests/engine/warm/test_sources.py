"""What counts as a change of the code. Files are old enough not to have been written during the load."""

import json
import subprocess
import sys
import time
from pathlib import Path

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

# Of several changed paths the first one in alphabetical order is told.
_CHANGES = [
    ("(root / 'defs' / '__pycache__').mkdir()", None),
    ("(root / 'unread.md').write_text('never read')", None),
    ("(root / 'written.txt').write_text('again')", None),
    ("(root / 'home' / 'runs.db').write_text('new')", None),
    ("(root / 'sources_of_test.py').write_text('VALUE = 2')", "sources_of_test.py"),
    ("(root / 'prompt.md').write_text('Say more')", "prompt.md"),
    ("(root / 'defs' / 'new').mkdir()", "defs"),
]


def load(root: Path, program: str, lines: str) -> list[str | None]:
    (root / "sources_of_test.py").write_text("VALUE = 1")
    (root / "prompt.md").write_text("Say something")
    for folder in ("defs", "home"):
        (root / folder).mkdir()
    (root / "home" / "runs.db").write_text("old")
    time.sleep(0.05)  # more than the clock of a file system may be behind
    command = [sys.executable, "-c", program, str(root)]
    process = subprocess.run(command, input=lines, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    return [json.loads(line) for line in process.stdout.splitlines()]


def test_changes_are_seen(tmp_path: Path) -> None:
    found = load(tmp_path, _PROGRAM, "".join(f"{change}\n" for change, _ in _CHANGES))
    assert found == [None, *(None if name is None else str(tmp_path / name) for _, name in _CHANGES)]


def test_what_is_written_while_it_is_read_has_changed(tmp_path: Path) -> None:
    program = _PROGRAM.replace("with sources", "(root / 'prompt.md').write_text('now')\nwith sources")
    assert load(tmp_path, program, "") == [str(tmp_path / "prompt.md")]
