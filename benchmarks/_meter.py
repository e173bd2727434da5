"""What the processes of a deployment cost: CPU time, also of those that have ended meanwhile, and memory."""

import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

_LOOK = 0.5  # seconds between two looks; of a process that ends, the CPU time since the last one is not seen

ROLES = {
    "dagster_webserver": "web server",
    "agent_pipelines.cli.main web": "web server",
    "agent_pipelines.cli.main daemon": "daemon",
    "dagster._daemon": "daemon",
    "code-server start": "code server",
    "api grpc": "code server",
    "agent_pipelines.engine.warm": "warm process and runs",
    "multiprocessing": "runs",
    "execute_run": "runs",
}
"""Part of the beginning of a command line, and what a process with it does; the first that fits."""


@dataclass(frozen=True)
class Seen:
    """A process as it was seen last."""

    role: str
    process: psutil.Process
    cpu: float


class Meter:
    """Adds up what the processes with a home in their environment use, from `start` on. Use as a context manager."""

    def __init__(self, home: Path) -> None:
        self._mark = ("DAGSTER_HOME", str(home))
        self._known: dict[tuple[int, float], Seen] = {}
        self._others: set[tuple[int, float]] = set()
        self._before: dict[tuple[int, float], float] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="meter", daemon=True)

    def __enter__(self) -> "Meter":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()

    def start(self) -> None:
        """Count from now on."""
        with self._lock:
            self._look()
            self._before = {key: seen.cpu for key, seen in self._known.items()}

    def cpu(self) -> dict[str, float]:
        """CPU seconds since the start, by role."""
        with self._lock:
            self._look()
            used: dict[str, float] = {}
            for key, seen in self._known.items():
                used[seen.role] = used.get(seen.role, 0.0) + seen.cpu - self._before.get(key, 0.0)
            return used

    def memory(self) -> tuple[dict[str, float], str]:
        """Megabytes in memory by role, and how they are counted: shared pages in parts (PSS) where the system tells."""
        with self._lock:
            self._look()
            megabytes: dict[str, float] = {}
            kind = "PSS" if Path("/proc/self/smaps_rollup").exists() else "RSS"
            for seen in self._known.values():
                with suppress(psutil.NoSuchProcess, psutil.AccessDenied, OSError):
                    size = _pss(seen.process.pid) if kind == "PSS" else seen.process.memory_info().rss
                    megabytes[seen.role] = megabytes.get(seen.role, 0.0) + size / 1e6
            return megabytes, kind

    def processes(self) -> list[psutil.Process]:
        """Those that are alive."""
        with self._lock:
            self._look()
            return [seen.process for seen in self._known.values() if seen.process.is_running()]

    def _run(self) -> None:
        while not self._stop.wait(_LOOK):
            with self._lock:
                self._look()

    def _look(self) -> None:
        for process in psutil.process_iter():
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                key = (process.pid, process.create_time())
                if key in self._others:
                    continue
                known = self._known.get(key)
                if known is None and process.environ().get(self._mark[0]) != self._mark[1]:
                    self._others.add(key)
                    continue
                times = process.cpu_times()
                role = _role(process) if known is None or known.role == "other" else known.role
                self._known[key] = Seen(role, process, times.user + times.system)


class ServerMeter:
    """The CPU seconds that a database server uses, by the process that all of its others are children of."""

    def __init__(self, pid: int | None) -> None:
        self._process = None if pid is None else psutil.Process(pid)
        self._before = 0.0

    def start(self) -> None:
        """Count from now on."""
        self._before = self._total()

    def cpu(self) -> float | None:
        """CPU seconds since the start; None for a server that is not ours to look at."""
        return None if self._process is None else self._total() - self._before

    def _total(self) -> float:
        if self._process is None:
            return 0.0
        times = self._process.cpu_times()
        total = times.user + times.system + times.children_user + times.children_system
        for child in self._process.children():
            with suppress(psutil.NoSuchProcess):
                own = child.cpu_times()
                total += own.user + own.system
        return total


def _role(process: psutil.Process) -> str:
    line = " ".join(process.cmdline()[:6])
    return next((role for part, role in ROLES.items() if part in line), "other")


def _pss(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1_024
    return 0
