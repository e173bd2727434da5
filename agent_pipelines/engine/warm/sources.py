"""The files that loaded definitions come from, and whether they are still the same."""

import os
import sys
import sysconfig
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent_pipelines.engine.warm.identity import own_start

State = tuple[int, int, int, int] | frozenset[str] | None

_TICK = 20_000_000  # nanoseconds by which the clock of a file system may be behind
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_UNREAL = ("/proc/", "/sys/", "/dev/")


class Sources:
    """What was read while definitions were loaded: modules, data files, and listed directories.

    Installed packages are watched as a whole, by the names of their distributions. Nothing of DAGSTER_HOME is a source.
    """

    def __init__(self, home: Path) -> None:
        paths = sysconfig.get_paths()
        self._installed = sorted({os.path.realpath(paths[name]) for name in ("purelib", "platlib")})
        libraries = [*self._installed, *(paths[name] for name in ("stdlib", "platstdlib"))]
        self._ignored = tuple({f"{os.path.realpath(path)}{os.sep}" for path in (*libraries, home)}) + _UNREAL
        self._started = own_start() - _TICK
        self._files: set[str] = set()
        self._written: set[str] = set()
        self._directories: set[str] = set()
        self._searched: set[str] = set()
        self._states: dict[str, State] = {}

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Note what this thread reads within the block, and its state at the end."""
        own = threading.get_ident()
        active = True

        def note(event: str, arguments: tuple[object, ...]) -> None:
            if active and event in ("open", "os.listdir", "os.scandir") and threading.get_ident() == own:
                self._note(event, arguments)

        sys.addaudithook(note)  # there is no way to take it away again
        try:
            yield
        finally:
            active = False
            self._settle()

    def changed(self) -> str | None:
        """The first path that is not as it was, None if all are."""
        for path, state in self._states.items():
            if state is None or self._state(path) != state:
                return path
        return None

    def _note(self, event: str, arguments: tuple[object, ...]) -> None:
        path = arguments[0]
        if path is None:
            path = "."
        if isinstance(path, bytes):
            path = os.fsdecode(path)
        if not isinstance(path, str):
            return
        path = os.path.abspath(path)
        if event == "open":
            flags = arguments[2]
            (self._written if isinstance(flags, int) and flags & _WRITING else self._files).add(path)
        elif sys._getframe(2).f_globals.get("__name__") == "importlib._bootstrap_external":
            self._searched.add(path)
        else:
            self._directories.add(path)

    def _settle(self) -> None:
        for module in list(sys.modules.values()):
            file = getattr(module, "__file__", None)
            if isinstance(file, str):
                self._files.add(os.path.abspath(file))
        found = (self._files - self._written) | self._directories | self._searched
        for path in sorted(found):
            if not path.endswith(".pyc") and not os.path.realpath(path).startswith(self._ignored):
                self._states[path] = self._state(path, since=self._started)
        for path in self._installed:
            self._states[path] = self._state(path)

    def _state(self, path: str, *, since: int | None = None) -> State:
        try:
            found = os.stat(path)
            if path in self._installed:
                return frozenset(name for name in os.listdir(path) if name.endswith(".dist-info"))
            if path in self._directories:
                return frozenset(name for name in os.listdir(path) if _is_visible(name))
            if path in self._searched:
                return frozenset(name for name in os.listdir(path) if name.endswith(".py"))
        except OSError:
            return (0, 0, 0, 0)
        if since is not None and found.st_ctime_ns >= since:
            return None  # written while it was being read: nobody knows which of the two was read
        return (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino)


def _is_visible(name: str) -> bool:
    return not name.startswith(".") and not name.endswith((".pyc", "~")) and name != "__pycache__"
