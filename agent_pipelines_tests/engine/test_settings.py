"""The settings that are delivered, as Dagster itself reads them."""

import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa
import yaml
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.run_coordinator import QueuedRunCoordinator
from dagster._core.scheduler.instigation import TickStatus
from dagster._core.workspace.load_target import WorkspaceFileTarget

from agent_pipelines.components.deployment import hub_of
from agent_pipelines.engine.bulk_events import BulkSqliteEventLogStorage
from agent_pipelines.engine.place import database_url
from agent_pipelines.engine.warm import WarmRunLauncher

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


@dg.op
def nothing() -> None: ...


@dg.job
def some_job() -> None:
    nothing()


@pytest.fixture
def on_one_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    (tmp_path / "dagster.yaml").write_text((ROOT / "dagster.yaml").read_text())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        instance = dg.DagsterInstance.get()
    with instance:
        yield instance


@pytest.fixture
def over_postgres(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, postgres_url: str) -> Iterator[dg.DagsterInstance]:
    url = sa.make_url(postgres_url)
    for name, value in {
        "HOST": url.host,
        "PORT": url.port,
        "USER": url.username,
        "PASSWORD": url.password or "not-asked-for",
        "DATABASE": url.database,
    }.items():
        monkeypatch.setenv(f"AGENT_PIPELINES_PG_{name}", str(value))
    (tmp_path / "dagster.yaml").write_text((DEPLOY / "postgres" / "dagster.yaml").read_text())
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        yield instance


def settings(instance: dg.DagsterInstance) -> dict[str, Any]:
    concurrency = instance.get_concurrency_config()
    assert concurrency.pool_config.pool_granularity is not None
    assert isinstance(instance.run_coordinator, QueuedRunCoordinator)
    return {
        "telemetry": instance.telemetry_enabled,
        "nux": instance.nux_enabled,
        "monitoring": instance.run_monitoring_enabled,
        "longest": instance.run_monitoring_max_runtime_seconds,
        "retries": instance.run_retries_enabled,
        "pools": (concurrency.pool_config.pool_granularity.value, concurrency.pool_config.default_pool_limit),
        "dequeue": instance.run_coordinator.dequeue_interval_seconds,
        "skipped": instance.get_tick_retention_settings(InstigatorType.SENSOR)[TickStatus.SKIPPED],
        "threads": (instance.get_settings("sensors")["use_threads"], instance.get_settings("schedules")["use_threads"]),
    }


EXPECTED = {
    "telemetry": False,
    "nux": False,
    "monitoring": True,
    "longest": 86_400,
    "retries": False,
    "pools": ("run", 1),
    "dequeue": 1,
    "skipped": 1,
    "threads": (True, True),
}


def test_one_machine(on_one_machine: dg.DagsterInstance, tmp_path: Path) -> None:
    assert settings(on_one_machine) == EXPECTED
    assert isinstance(on_one_machine.run_launcher, WarmRunLauncher)
    assert isinstance(on_one_machine.event_log_storage, BulkSqliteEventLogStorage)
    assert some_job.execute_in_process(instance=on_one_machine).success
    assert (tmp_path / "event_log.db").exists()
    assert database_url(on_one_machine) == f"sqlite:///{tmp_path / 'agent_pipelines.db'}"


def test_over_postgres(over_postgres: dg.DagsterInstance) -> None:
    assert settings(over_postgres) == EXPECTED
    assert isinstance(over_postgres.run_launcher, WarmRunLauncher)
    assert some_job.execute_in_process(instance=over_postgres).success
    assert len(over_postgres.get_runs()) == 1
    url = sa.make_url(database_url(over_postgres))
    assert url.drivername == "postgresql+psycopg2"
    hub = hub_of(over_postgres)
    with hub.database.reading() as connection:
        assert hub.ticks.last_seq(connection) == 0
        schemas = set(connection.execute(sa.text("SELECT table_schema FROM information_schema.tables")).scalars())
    assert {"public", "agent_pipelines"} <= schemas
    hub.database.close()


def test_each_line_of_the_settings_of_one_machine_is_explained() -> None:
    """Each key that holds a value has a comment right above it, or above the group of its siblings."""
    lines = (ROOT / "dagster.yaml").read_text().splitlines()
    explained: list[int] = []  # indentations that a comment covers
    for previous, line in zip(["", *lines], lines, strict=False):
        if not line.strip() or line.strip().startswith("#"):
            continue
        indent = len(line) - len(line.lstrip())
        explained = [each for each in explained if each < indent or (each == indent and not line.endswith(":"))]
        if previous.strip().startswith("#"):
            explained.append(indent)
        assert explained, f"nothing explains {line!r}"


def test_the_workspace_names_the_code_server_of_the_containers() -> None:
    (origin,) = WorkspaceFileTarget([str(DEPLOY / "postgres" / "workspace.yaml")]).create_origins()
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    assert origin.location_name == "examples"
    assert origin.host in compose["services"]  # pyright: ignore[reportAttributeAccessIssue]
    assert str(origin.port) in compose["services"]["code"]["command"]  # pyright: ignore[reportAttributeAccessIssue]


def test_the_containers_fit_together() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    services = compose["services"]
    assert set(services) == {"postgres", "migrate", "code", "daemon", "poller", "webserver"}
    for name, service in services.items():
        for needed, how in service.get("depends_on", {}).items():
            assert needed in services
            if how["condition"] == "service_healthy":
                assert "healthcheck" in services[needed], f"{name} waits for {needed}, which has no health check"
    used = set(re.findall(r"env: (\w+)", (DEPLOY / "postgres" / "dagster.yaml").read_text()))
    for name in ("migrate", "code", "daemon", "poller", "webserver"):
        assert used <= set(services[name]["environment"])
    assert services["postgres"]["environment"]["POSTGRES_DB"] == services["code"]["environment"]["AGENT_PIPELINES_PG_DATABASE"]
    assert services["webserver"]["ports"] == ["127.0.0.1:3000:3000"]


def test_the_image_copies_files_that_exist() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    copied = " ".join(re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE))
    for name, value in re.findall(r"^ARG (\w+)=(\S+)$", text, re.MULTILINE):
        copied = copied.replace(f"${{{name}}}", value)
    for path in copied.split():
        assert (ROOT / path).exists(), path
