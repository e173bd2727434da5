import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from agent_pipelines import BurstSettings
from agent_pipelines.components.deployment import hub_of
from agent_pipelines.components.lane import lane_definitions
from agent_pipelines.components.registered_tasks import partitions_name, registered_key
from agent_pipelines.core.clock import ManualClock
from agent_pipelines.core.declared import DECLARED, Declared
from agent_pipelines.core.task import TaskSpec
from agent_pipelines.engine.burst_settings import BURST
from agent_pipelines.hub import Hub
from agent_pipelines.store.database import Database
from agent_pipelines_tests.components.running import definitions_of, fake, task
from agent_pipelines_tests.conftest import create_postgres_database
from agent_pipelines_tests.execution.bursting import claim, register, spec

SETTINGS = BurstSettings.model_validate({"runs": 1, "in_flight": 20, "idle": 0, "ahead": 0})


@pytest.fixture(params=["sqlite", "postgresql"])
def instance(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """An instance on disk with the storage that is delivered, once over each database."""
    settings: dict[str, Any] = {"telemetry": {"enabled": False}}
    if request.param == "sqlite":
        storage = {"module": "agent_pipelines.engine.bulk_events", "class": "BulkSqliteEventLogStorage"}
        settings["event_log_storage"] = {**storage, "config": {"base_dir": str(tmp_path)}}
    else:
        settings["storage"] = {"postgres": {"postgres_url": create_postgres_database()}}
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(settings))
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        yield instance


def lane(*tasks: TaskSpec, workspace: str = "default", settings: BurstSettings = SETTINGS, **declared: Any) -> dg.Definitions:
    return lane_definitions(workspace, tasks, Declared.model_validate({"agents": ("worker",), **declared}), settings)


def run(instance: dg.DagsterInstance, *tasks: Any, **agent: Any) -> dg.ExecuteInProcessResult:
    """One burst of the lane of these declared tasks."""
    built = definitions_of(*tasks, agents=(fake("worker", **agent),))
    references = tuple(check.python for each in tasks for check in each.checks)
    defs = dg.Definitions.merge(built, lane(*tasks, references=references))
    return defs.resolve_job_def("agent_pipelines__burst__default").execute_in_process(instance=instance, raise_on_error=False)


def test_registered_tasks_are_materialized_as_partitions(instance: dg.DagsterInstance) -> None:
    hub = hub_of(instance)
    register(hub, *(spec(f"task{number}") for number in range(12)), spec("bad", agent="nobody"))
    result = run(instance, replies=["done"])
    assert result.success
    found = instance.fetch_materializations(registered_key("default"), limit=100).records
    assert {record.partition_key for record in found} == {f"app/task{number}" for number in range(12)}
    assert {record.run_id for record in found} == {result.run_id}
    materialization = found[0].asset_materialization
    assert materialization is not None
    assert materialization.metadata["output"].value == "done"
    assert materialization.metadata["status"].value == "succeeded"
    assert set(instance.get_dynamic_partitions(partitions_name("default"))) == {f"app/task{number}" for number in range(12)}
    assert metadata_of(result) == {"done": 13, "failed": 1, "ran": 12, "launch_failed": 1}
    assert check_of(instance, registered_key("default"), "no_failed_tasks", result.run_id) is False


def metadata_of(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    (output,) = [event for event in result.all_node_events if event.event_type_value == "STEP_OUTPUT"]
    return {name: value.value for name, value in output.step_output_data.metadata.items()}


def check_of(instance: dg.DagsterInstance, key: dg.AssetKey, name: str, run_id: str) -> bool:
    """Whether a check passed in a run."""
    records = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION).records
    evaluations = [record.event_log_entry.get_dagster_event().asset_check_evaluation_data for record in records]
    return [each.passed for each in evaluations if (each.asset_key, each.check_name) == (key, name)][-1]


def test_a_failure_is_green_nowhere_and_gone_after_a_success(instance: dg.DagsterInstance) -> None:
    hub = hub_of(instance)
    register(hub, spec("flaky"))
    result = run(instance, fail_times=1, error_class="invalid_request")
    assert result.success
    assert metadata_of(result) == {"done": 1, "failed": 1}
    assert instance.fetch_materializations(registered_key("default"), limit=5).records == []
    (observed,) = instance.fetch_observations(registered_key("default"), limit=5).records
    assert observed.partition_key == "app/flaky"
    assert check_of(instance, registered_key("default"), "no_failed_tasks", result.run_id) is False
    (check,) = lane().asset_checks or ()
    assert isinstance(check, dg.AssetsDefinition)
    evaluated = dg.materialize([lane_asset(), check], instance=instance, selection=dg.AssetSelection.checks(check))
    (evaluation,) = evaluated.get_asset_check_evaluations()
    assert not evaluation.passed
    assert "`app/flaky`: invalid_request" in (evaluation.description or "")
    register(hub, spec("flaky"), occurrence="again")
    result = run(instance)
    assert check_of(instance, registered_key("default"), "no_failed_tasks", result.run_id) is True


def lane_asset() -> dg.AssetSpec:
    (asset,) = lane().assets or ()
    assert isinstance(asset, dg.AssetSpec)
    return asset


def test_a_declared_task_has_its_own_asset_with_its_checks(instance: dg.DagsterInstance) -> None:
    hub = hub_of(instance)
    check = {"name": "good", "python": "agent_pipelines_tests.execution.burst_checks:is_good"}
    declared = task("digest", agent="worker", lane="burst", checks=[check])
    with hub.database.transaction() as connection:
        claim(hub, connection, declared)
    result = run(instance, declared, replies=["fine"])
    (record,) = instance.fetch_materializations(dg.AssetKey(["default", "digest"]), limit=5).records
    materialization = record.asset_materialization
    assert materialization is not None
    assert record.partition_key is None
    assert materialization.metadata["output"].value == "fine"
    assert materialization.tags is not None
    assert materialization.tags["dagster/code_version"] == declared.spec_hash[:16]
    assert re.fullmatch("[0-9a-f]{32}", materialization.tags["dagster/data_version"])
    assert check_of(instance, dg.AssetKey(["default", "digest"]), "good", result.run_id) is True
    assert instance.get_dynamic_partitions(partitions_name("default")) == []


def test_a_check_that_fails_shows_red_on_the_task(instance: dg.DagsterInstance) -> None:
    hub = hub_of(instance)
    check = {"name": "good", "python": "agent_pipelines_tests.execution.burst_checks:is_good"}
    declared = task("digest", agent="worker", lane="burst", checks=[check], retry={"max_attempts": 1})
    with hub.database.transaction() as connection:
        claim(hub, connection, declared)
    result = run(instance, declared, replies=["bad"])
    assert instance.fetch_materializations(dg.AssetKey(["default", "digest"]), limit=5).records == []
    (observed,) = instance.fetch_observations(dg.AssetKey(["default", "digest"]), limit=5).records
    assert observed.asset_observation is not None
    assert observed.asset_observation.metadata["error_class"].value == "check"
    assert check_of(instance, dg.AssetKey(["default", "digest"]), "good", result.run_id) is False


def test_what_a_killed_burst_left_unwritten_is_written_by_the_next(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = hub_of(instance)
    register(hub, *(spec(f"task{number}") for number in range(3)))
    with monkeypatch.context() as patch:
        patch.setattr("agent_pipelines.components.burst_report.write", lambda *_: None)
        first = run(instance)
    assert instance.fetch_materializations(registered_key("default"), limit=5).records == []
    run_of_first = instance.get_run_by_id(first.run_id)
    assert run_of_first is not None
    instance.report_run_failed(run_of_first)  # as run monitoring does when the process is gone
    second, third = run(instance), run(instance)
    found = instance.fetch_materializations(registered_key("default"), limit=50).records
    assert sorted(record.partition_key or "" for record in found) == ["app/task0", "app/task1", "app/task2"]
    assert {record.run_id for record in found} == {first.run_id}
    assert second.success
    assert third.success


def evaluate(hub: Hub, instance: dg.DagsterInstance, workspace: str = "default") -> str:
    (sensor,) = lane_definitions(workspace, (), Declared(), SETTINGS, hub_of=lambda _: hub).sensors or ()
    assert isinstance(sensor, dg.SensorDefinition)
    with dg.build_sensor_context(instance) as context:
        found = sensor.evaluate_tick(context)
    assert not found.run_requests
    assert found.skip_message is not None
    return found.skip_message


def test_the_sensor_says_how_the_bursts_stand(database: Database, clock: ManualClock) -> None:
    hub = Hub(database, clock)
    with dg.DagsterInstance.ephemeral() as instance:
        register(hub, spec("one"), spec("two"))
        assert evaluate(hub, instance).startswith("2 due; needs `agent-pipelines up`")
        with hub.database.transaction() as connection:
            hub.daemons.beat(connection, "d", "leader")
            hub.bursts.open(connection, "r1", "default")
            hub.bursts.beat(connection, "r1", in_flight=2, done=5, failed=0)
        assert evaluate(hub, instance) == "2 due, 2 in flight in 1 burst, nothing is due next"
        assert evaluate(hub, instance, "other") == "0 due, 0 in flight in 0 bursts, nothing is due next"


def test_the_sensor_tells_the_daemon_the_settings_and_what_is_declared() -> None:
    (sensor,) = lane(settings=BurstSettings(in_flight=7)).sensors or ()
    assert isinstance(sensor, dg.SensorDefinition)
    assert sensor.name == "agent_pipelines__bursts__default"
    assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
    metadata = {name: value.value for name, value in sensor.metadata.items()}
    assert BurstSettings.model_validate_json(str(metadata[BURST])).in_flight == 7
    assert Declared.model_validate_json(str(metadata[DECLARED])).agents == ("worker",)
    assert json.loads(str(metadata[BURST]))["runs"] == 2


def test_workspaces_have_lanes_of_their_own() -> None:
    merged = dg.Definitions.merge(definitions_of(agents=(fake("worker"),)), lane(), lane(workspace="acme"))
    repository = merged.get_repository_def()
    repository.validate_loadable()
    assert {key.to_user_string() for key in repository.asset_graph.get_all_asset_keys()} == {
        "registered_tasks",
        "registered_tasks/acme",
    }
    assert set(repository.job_names) >= {"agent_pipelines__burst__default", "agent_pipelines__burst__acme"}
