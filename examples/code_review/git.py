"""Git without anybody's settings."""

import os
import subprocess
from pathlib import Path


def git(directory: Path, *arguments: str, environment: dict[str, str] | None = None) -> str:
    """Run git in a directory and return what it prints. Raises subprocess.CalledProcessError if it fails."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    alone = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull, "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    command = ["git", "-c", "core.autocrlf=false", "-c", "gc.auto=0", "-C", str(directory), *arguments]
    return subprocess.run(command, env=plain | alone | (environment or {}), check=True, capture_output=True, text=True).stdout
