"""How often a process asks the code servers whether they are still the same."""

from dagster._grpc import server_watcher

_SECONDS = 5


def watch_code_servers_calmly() -> None:
    """Let this process ask each code server every five seconds.

    Dagster asks each second, over a connection of its own each time and by way of a second process: with nothing to do, that
    is a third of the processor time of a deployment. Who reloads a code location sees it at once all the same; the other
    processes follow within these seconds. To be called before a workspace is loaded.
    """
    server_watcher.WATCH_INTERVAL = _SECONDS
