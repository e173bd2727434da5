"""What is delivered for runs on several machines: settings, compose files and the values of Dagster's chart agree."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa
import typer.main
import yaml
from dagster._core.run_coordinator import QueuedRunCoordinator

from agent_pipelines.cli.main import app
from agent_pipelines.engine.celery import ClaimingCeleryRunLauncher
from agent_pipelines.engine.place import database_url

DEPLOY = Path(__file__).parents[2] / "deploy"
SETTINGS: dict[str, Any] = yaml.safe_load((DEPLOY / "celery" / "dagster.yaml").read_text())
VALUES: dict[str, Any] = yaml.safe_load((DEPLOY / "helm" / "values.yaml").read_text())
MANIFESTS: list[dict[str, Any]] = VALUES["extraManifests"]
CHARTS_OWN = {"storage", "run_launcher", "telemetry"}


def manifests(kind: str) -> dict[str, dict[str, Any]]:
    return {each["metadata"]["name"]: each for each in MANIFESTS if each["kind"] == kind}


def containers() -> Iterator[dict[str, Any]]:
    for deployment in manifests("Deployment").values():
        pod = deployment["spec"]["template"]["spec"]
        yield from (*pod["containers"], *pod.get("initContainers", ()))


def rendered(url: sa.URL) -> dict[str, Any]:
    """What the chart writes into dagster.yaml of these values; the server is that of the test."""
    postgres = VALUES["postgresql"]
    database = {
        "username": url.username,
        "password": {"env": "DAGSTER_PG_PASSWORD"},
        "hostname": url.host,
        "db_name": url.database,
        "port": url.port,
        "params": postgres["postgresqlParams"],
        "scheme": postgres["postgresqlScheme"],
    }
    storages = {
        "schedule_storage": ("dagster_postgres.schedule_storage", "PostgresScheduleStorage"),
        "run_storage": ("dagster_postgres.run_storage", "PostgresRunStorage"),
        "event_log_storage": ("dagster_postgres.event_log", "PostgresEventLogStorage"),
    }
    return {
        "scheduler": {"module": "dagster._core.scheduler", "class": "DagsterDaemonScheduler"},
        **{
            name: {"module": module, "class": cls, "config": {"postgres_db": database}}
            for name, (module, cls) in storages.items()
        },
        "run_launcher": VALUES["runLauncher"]["config"]["customRunLauncher"],
        "compute_logs": {"module": "dagster._core.storage.noop_compute_log_manager", "class": "NoOpComputeLogManager"},
        "telemetry": VALUES["telemetry"],
        **VALUES["additionalInstanceConfig"],
    }


@pytest.fixture(params=["compose", "helm"])
def instance(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, postgres_url: str
) -> Iterator[dg.DagsterInstance]:
    url = sa.make_url(postgres_url)
    variables = {"HOST": url.host, "PORT": url.port, "USER": url.username, "PASSWORD": "not-asked-for", "DATABASE": url.database}
    for name, value in variables.items():
        monkeypatch.setenv(f"AGENT_PIPELINES_PG_{name}", str(value))
    monkeypatch.setenv("DAGSTER_PG_PASSWORD", "not-asked-for")
    monkeypatch.setenv("AGENT_PIPELINES_BROKER", "redis://127.0.0.1:1/0")
    settings = SETTINGS if request.param == "compose" else rendered(url)
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(settings))
    with dg.DagsterInstance.from_config(str(tmp_path)) as made:
        yield made


def test_dagster_reads_the_settings(instance: dg.DagsterInstance, postgres_url: str) -> None:
    assert isinstance(instance.run_launcher, ClaimingCeleryRunLauncher)
    assert (instance.run_launcher.settings.lease, instance.run_launcher.settings.warm.grace_after_interrupt) == (15, 30)
    assert isinstance(instance.run_coordinator, QueuedRunCoordinator)
    assert instance.run_coordinator.dequeue_interval_seconds == 1
    assert instance.run_monitoring_max_runtime_seconds == 86_400
    ours, theirs = sa.make_url(database_url(instance)), sa.make_url(postgres_url)
    assert (ours.drivername, ours.port, ours.database) == ("postgresql+psycopg2", theirs.port, theirs.database)
    assert len(instance.get_runs()) == 0


def test_the_values_say_what_the_settings_say() -> None:
    database = SETTINGS["storage"]["postgres"]["postgres_db"]
    assert VALUES["postgresql"]["postgresqlParams"] == database["params"]
    assert VALUES["postgresql"]["postgresqlScheme"] == database["scheme"]
    assert VALUES["runLauncher"]["config"]["customRunLauncher"] == SETTINGS["run_launcher"]
    assert VALUES["telemetry"] == SETTINGS["telemetry"]
    assert VALUES["additionalInstanceConfig"] == {name: SETTINGS[name] for name in SETTINGS.keys() - CHARTS_OWN}


def test_the_processes_of_the_chart_are_off_and_ours_are_there() -> None:
    assert VALUES["dagsterWebserver"]["replicaCount"] == 0
    assert VALUES["dagsterDaemon"]["enabled"] is False
    replicas = {name: each["spec"]["replicas"] for name, each in manifests("Deployment").items()}
    assert all(replicas[f"agent-pipelines-{name}"] >= 2 for name in ("daemon", "web", "worker"))


@pytest.mark.parametrize(
    "command",
    [
        *(each["command"] for each in containers() if "command" in each),
        *(
            service["command"]
            for file in ("compose.yaml", "celery/compose.yaml")
            for service in yaml.safe_load((DEPLOY / file).read_text())["services"].values()
            if service.get("command", [""])[0] == "agent-pipelines"
        ),
    ],
    ids=" ".join,
)
def test_the_commands_exist(command: list[str]) -> None:
    program, name, *arguments = command
    assert program == "agent-pipelines"
    group = typer.main.get_group(app)
    found = group.commands[name]
    # The workspace is a file of the container.
    found.make_context(name, ["pyproject.toml" if each.endswith("workspace.yaml") else each for each in arguments])


def test_what_the_manifests_name_exists() -> None:
    deployments = manifests("Deployment")
    for deployment in deployments.values():
        assert deployment["spec"]["selector"]["matchLabels"] == deployment["spec"]["template"]["metadata"]["labels"]
    for service in manifests("Service").values():
        chosen = [
            each for each in deployments.values() if each["spec"]["template"]["metadata"]["labels"] == service["spec"]["selector"]
        ]
        ports = [
            port["name"]
            for each in chosen
            for pod in [each["spec"]["template"]["spec"]["containers"]]
            for port in pod[0]["ports"]
        ]
        assert [port["targetPort"] for port in service["spec"]["ports"]] == ports
    charts = VALUES["global"]["fullnameOverride"]
    volumes = [v for each in deployments.values() for v in each["spec"]["template"]["spec"].get("volumes", ())]
    assert {volume["configMap"]["name"] for volume in volumes} == {f"{charts}-instance", f"{charts}-workspace-yaml"}
    assert VALUES["global"]["dagsterInstanceConfigMap"] == f"{charts}-instance"
    for container in containers():
        for mount in container.get("volumeMounts", ()):
            assert mount["name"] in {volume["name"] for volume in volumes}


def test_each_process_has_the_variables_of_its_settings() -> None:
    compose = merged()
    used = set(re.findall(r"env: (\w+)", (DEPLOY / "celery" / "dagster.yaml").read_text()))
    assert "AGENT_PIPELINES_BROKER" in used
    for name in ("migrate", "code", "daemon", "webserver", "worker"):
        assert used <= set(compose[name]["environment"]), name
    code = VALUES["dagster-user-deployments"]["deployments"][0]
    used = set(re.findall(r"'env': '(\w+)'", str(rendered(sa.make_url("postgresql://")))))
    for container in containers():
        if container["command" if "command" in container else "image"] != "redis:7":
            assert used <= {each["name"] for each in container["env"]}
    # The chart gives the password to code servers itself.
    assert used - {"DAGSTER_PG_PASSWORD"} <= {each["name"] for each in code["env"]}


def test_the_compose_files_fit_together() -> None:
    services = merged()
    assert set(services) == {"postgres", "redis", "migrate", "code", "daemon", "poller", "webserver", "worker"}
    build = services["worker"]["build"]
    assert (DEPLOY.parent / build["args"]["SETTINGS"]).exists()
    for name in ("migrate", "code", "daemon", "poller", "webserver"):
        assert services[name]["build"] == build
        assert set(services[name]["depends_on"]) <= set(services)


def test_the_image_has_what_the_values_name() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    assert f"DAGSTER_HOME={VALUES['global']['dagsterHome']}" in text
    (code,) = VALUES["dagster-user-deployments"]["deployments"]
    workspace: Any = yaml.safe_load((DEPLOY / "postgres" / "workspace.yaml").read_text())
    server = workspace["load_from"][0]["grpc_server"]
    assert (code["name"], code["port"]) == (server["location_name"], server["port"])


def merged() -> Mapping[str, dict[str, Any]]:
    """The services as compose merges the two files: maps by key, all else replaced."""
    services: dict[str, dict[str, Any]] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    for name, changes in yaml.safe_load((DEPLOY / "celery" / "compose.yaml").read_text())["services"].items():
        service = services.setdefault(name, {})
        for key, value in changes.items():
            service[key] = {**service[key], **value} if isinstance(service.get(key), dict) else value
    return services
