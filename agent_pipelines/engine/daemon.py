"""Dagster's daemon process with our scheduler in it."""

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

from dagster import DagsterInstance
from dagster._daemon.controller import DagsterDaemonController, create_daemon_of_type
from dagster._daemon.daemon import DagsterDaemon, SchedulerDaemon
from dagster._utils.interrupts import capture_interrupts, raise_interrupts_as, setup_interrupt_handlers
from dagster._utils.log import configure_loggers, default_date_format_string, default_format_string

from agent_pipelines.core.errors import StorageError
from agent_pipelines.engine.home import run_launcher_of
from agent_pipelines.engine.leadership import AdvisoryLeadership, FileLeadership, Leadership
from agent_pipelines.engine.live_workspace import LiveWorkspace
from agent_pipelines.engine.logs import log_to_stderr
from agent_pipelines.engine.periodic import Periodic
from agent_pipelines.engine.scheduler import Keeping, SecondScheduler
from agent_pipelines.engine.server_watch import watch_code_servers_calmly
from agent_pipelines.engine.warm.storage import keep_metadata

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
    run_launcher_of(instance)  # a mistake in its settings is told now, and not with each run
    # Without a pool each query of Dagster's opens a connection.
    instance.optimize_for_webserver(statement_timeout=_STATEMENT_TIMEOUT, pool_recycle=_POOL_RECYCLE, max_overflow=20)
    keep_metadata(instance)
    watch_code_servers_calmly()
    leadership = _leadership(instance, keeping)
    stop = threading.Event()
    beating = Periodic("heartbeat", lambda: _beat(keeping, "leader"), _BEAT, stop)
    try:
        with capture_interrupts(), LiveWorkspace(instance, workspace) as code:
            if _is_chosen(leadership, code, keeping, stop):
                _log.info("this process keeps the time")
                # Before any sensor is looked at: some leave to the daemon what they would do without one.
                beating.once()
                # Until the end, for to load the projects may take longer than a standby waits for a sign of life.
                beating.start()
                _lead(instance, code, keeping, log_level)
    except KeyboardInterrupt:
        _log.info("asked to stop")
    finally:
        stop.set()
        beating.join(_BEAT)
        with suppress(StorageError), keeping.database.transaction() as connection:
            keeping.daemons.stop(connection, keeping.daemon_id)
        leadership.release()


def _is_chosen(leadership: Leadership, code: LiveWorkspace, keeping: Keeping, stop: threading.Event) -> bool:
    def stand_by() -> None:
        # Loaded before it is told to be ready: who takes over has nothing left to do but look at the clock.
        code.stand_by()
        _beat(keeping, "standby")

    with raise_interrupts_as(KeyboardInterrupt):
        return leadership.acquire(stop, stand_by)


def _lead(instance: DagsterInstance, code: LiveWorkspace, keeping: Keeping, log_level: str) -> None:
    context = code.lead()
    configure_loggers(log_level=log_level.upper())
    _plain_in_files()
    with ExitStack() as stack:
        daemons = [stack.enter_context(daemon) for daemon in _daemons(instance, keeping)]
        controller = DagsterDaemonController(context, daemons, grpc_server_registry=code.servers)
        stack.enter_context(controller).check_daemon_loop()


def _plain_in_files() -> None:
    """Take the colours of a terminal out of what Dagster's loggers write elsewhere."""
    plain = logging.Formatter(default_format_string(), default_date_format_string())
    for handler in logging.getLogger("dagster").handlers:
        if isinstance(handler, logging.StreamHandler) and not handler.stream.isatty():
            handler.setFormatter(plain)


def _daemons(instance: DagsterInstance, keeping: Keeping) -> Iterator[DagsterDaemon]:
    for kind in instance.get_required_daemon_types():
        yield SecondScheduler(keeping) if kind == SchedulerDaemon.daemon_type() else create_daemon_of_type(kind, instance)


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
