"""Dagster's daemon process with our scheduler in it."""

import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from dagster import DagsterInstance
from dagster._core.workspace.load_target import WorkspaceFileTarget, WorkspaceLoadTarget
from dagster._daemon.controller import create_daemon_of_type, daemon_controller_from_instance
from dagster._daemon.daemon import DagsterDaemon, SchedulerDaemon
from dagster._utils.interrupts import capture_interrupts, setup_interrupt_handlers
from dagster._utils.log import default_date_format_string, default_format_string

from agent_pipelines.core.errors import StorageError
from agent_pipelines.engine.leadership import AdvisoryLeadership, FileLeadership, Leadership
from agent_pipelines.engine.logs import log_to_stderr
from agent_pipelines.engine.periodic import Periodic
from agent_pipelines.engine.scheduler import Keeping, SecondScheduler

_log = logging.getLogger("agent_pipelines.daemon")

_STATEMENT_TIMEOUT = 60_000  # milliseconds
_POOL_RECYCLE = 3_600  # seconds
_BEAT = 5.0  # seconds


def run_daemon(instance: DagsterInstance, workspace: Path, keeping: Keeping, *, log_level: str = "info") -> None:
    """Keep the time and run all daemons of Dagster until SIGINT or SIGTERM; stand by first while another process does.

    Raises SecondDaemon on SQLite if another process does.
    """
    setup_interrupt_handlers()
    log_to_stderr(log_level)
    # Without a pool each query of Dagster's opens a connection.
    instance.optimize_for_webserver(statement_timeout=_STATEMENT_TIMEOUT, pool_recycle=_POOL_RECYCLE, max_overflow=20)
    leadership = _leadership(instance, keeping)
    stop = threading.Event()
    beating = Periodic("heartbeat", lambda: _beat(keeping, "leader"), _BEAT, stop)
    try:
        with capture_interrupts():
            if leadership.acquire(stop, lambda: _beat(keeping, "standby")):
                _log.info("this process keeps the time")
                # Before any sensor is looked at: some leave to the daemon what they would do without one.
                beating.once()
                # Until the end, for to load the projects may take longer than a standby waits for a sign of life.
                beating.start()
                _lead(instance, WorkspaceFileTarget([str(workspace)]), keeping, log_level)
    except KeyboardInterrupt:
        _log.info("asked to stop")
    finally:
        stop.set()
        beating.join(_BEAT)
        with suppress(StorageError), keeping.database.transaction() as connection:
            keeping.daemons.stop(connection, keeping.daemon_id)
        leadership.release()


def _lead(instance: DagsterInstance, target: WorkspaceLoadTarget, keeping: Keeping, log_level: str) -> None:
    with daemon_controller_from_instance(
        instance, target, gen_daemons=_daemons(keeping), log_level=log_level, code_server_log_level="warning"
    ) as controller:
        _plain_in_files()
        controller.check_daemon_loop()


def _plain_in_files() -> None:
    """Take the colours of a terminal out of what Dagster's loggers write elsewhere."""
    plain = logging.Formatter(default_format_string(), default_date_format_string())
    for handler in logging.getLogger("dagster").handlers:
        if isinstance(handler, logging.StreamHandler) and not handler.stream.isatty():
            handler.setFormatter(plain)


def _daemons(keeping: Keeping) -> Callable[[DagsterInstance], Sequence[DagsterDaemon]]:
    def generate(instance: DagsterInstance) -> Iterator[DagsterDaemon]:
        for kind in instance.get_required_daemon_types():
            is_scheduler = kind == SchedulerDaemon.daemon_type()
            yield SecondScheduler(keeping) if is_scheduler else create_daemon_of_type(kind, instance)

    return lambda instance: list(generate(instance))


def _leadership(instance: DagsterInstance, keeping: Keeping) -> Leadership:
    if keeping.database.is_sqlite:
        return FileLeadership(Path(instance.root_directory))
    return AdvisoryLeadership(keeping.database.url, _end, lambda: _pulse(keeping))


def _beat(keeping: Keeping, role: str) -> None:
    with keeping.database.transaction() as connection:
        keeping.daemons.beat(connection, keeping.daemon_id, role)


def _pulse(keeping: Keeping) -> object:
    with keeping.database.reading() as connection:
        return keeping.daemons.pulse(connection)


def _end(reason: str) -> None:
    # Another process may lead already: nothing that is in hand may go on.
    _log.error("this process leads no longer: %s", reason)
    logging.shutdown()
    os._exit(1)
