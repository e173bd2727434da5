"""The values for Dagster's Helm chart and the manifest beside them."""

import shlex
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa
import yaml
from typer.testing import CliRunner

from agent_pipelines.cli.main import app
from agent_pipelines.engine.celery import ClaimingCeleryRunLauncher
from agent_pipelines.engine.place import database_url

DEPLOY = Path(__file__).parents[2] / "deploy"
VALUES: dict[str, Any] = yaml.safe_load((DEPLOY / "helm" / "values.yaml").read_text())
ITEMS: list[dict[str, Any]] = yaml.safe_load((DEPLOY / "helm" / "agent-pipelines.yaml").read_text())["items"]


def rendered(host: str, port: int, user: str, database: str) -> dict[str, Any]:
    """The dagster.yaml that the chart makes of the values: three storages, the launcher, and what is added as it is."""
    connection = {
        "username": user,
        "password": {"env": "DAGSTER_PG_PASSWORD"},
        "hostname": host,
        "port": port,
        "db_name": database,
        "scheme": VALUES["postgresql"]["postgresqlScheme"],
        "params": VALUES["postgresql"]["postgresqlParams"],
    }
    storages = {
        "run_storage": ("dagster_postgres.run_storage", "PostgresRunStorage"),
        "event_log_storage": ("dagster_postgres.event_log", "PostgresEventLogStorage"),
        "schedule_storage": ("dagster_postgres.schedule_storage", "PostgresScheduleStorage"),
    }
    stored = {
        name: {"module": module, "class": kind, "config": {"postgres_db": connection}}
        for name, (module, kind) in storages.items()
    }
    launcher = VALUES["runLauncher"]["config"]["customRunLauncher"]
    return {**stored, "run_launcher": launcher, "telemetry": VALUES["telemetry"], **VALUES["additionalInstanceConfig"]}


def test_dagster_reads_what_the_chart_makes_of_the_values(
    tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = sa.make_url(postgres_url)
    monkeypatch.setenv("DAGSTER_PG_PASSWORD", url.password or "none")
    monkeypatch.setenv("AGENT_PIPELINES_BROKER", "redis://127.0.0.1:1/0")
    settings = rendered(str(url.host), int(url.port or 5432), str(url.username), str(url.database))
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(settings))
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert isinstance(instance.run_launcher, ClaimingCeleryRunLauncher)
        assert sa.make_url(database_url(instance)).database == url.database


def test_the_settings_are_those_of_celery_without_the_chart() -> None:
    celery = yaml.safe_load((DEPLOY / "celery" / "dagster.yaml").read_text())
    ours = rendered("", 0, "", "")
    del celery["storage"]
    assert {name: ours[name] for name in celery} == celery


def test_the_manifest_names_what_the_chart_makes() -> None:
    name = VALUES["global"]["fullnameOverride"]
    pods = [each["spec"]["template"]["spec"] for each in ITEMS if "template" in each.get("spec", {})]
    assert len(pods) == 4
    own = {each["metadata"]["name"] for each in ITEMS if each["kind"] == "ConfigMap"}
    for pod in pods:
        (container,) = pod["containers"]
        assert {volume["configMap"]["name"] for volume in pod["volumes"]} == {f"{name}-instance", f"{name}-workspace-yaml"}
        assert container["env"][0]["valueFrom"]["secretKeyRef"]["name"] == f"{name}-postgresql-secret"
        assert container["envFrom"][0]["configMapRef"]["name"] in own
        assert container["volumeMounts"][0]["mountPath"] == f"{VALUES['global']['dagsterHome']}/dagster.yaml"
        image = VALUES["dagster-user-deployments"]["deployments"][0]["image"]
        assert container["image"] == f"{image['repository']}:{image['tag']}"


@pytest.mark.parametrize("kind", ["migrate", "web", "daemon", "worker"])
def test_the_commands_of_the_manifest_are_commands_of_ours(kind: str) -> None:
    (item,) = (each for each in ITEMS if each["metadata"]["name"] == f"agent-pipelines-{kind}" and "template" in each["spec"])
    program, command, *options = item["spec"]["template"]["spec"]["containers"][0]["command"]
    assert (program, command) == ("agent-pipelines", kind)
    done = CliRunner().invoke(app, [command, *options, "--help"])
    assert done.exit_code == 0, shlex.join([command, *options])
    known = done.output
    assert all(option in known for option in options if option.startswith("--"))
