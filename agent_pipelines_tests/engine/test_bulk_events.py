"""The event log that stores many at once, beside Dagster's own."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._core.storage.event_log import ConsolidatedSqliteEventLogStorage

from agent_pipelines.engine.bulk_events import BulkSqliteEventLogStorage
from agent_pipelines.engine.materializations import AssetEvent, Materializations, Occurrence, RunOfEvents
from agent_pipelines_tests.conftest import create_postgres_database

KEY, OTHER = dg.AssetKey("registered"), dg.AssetKey(["app", "task"])
TAGS = {"dagster/data_version": "1", "dagster/code_version": "2"}
STOCK = ("dagster._core.storage.event_log", "ConsolidatedSqliteEventLogStorage")
OURS = ("agent_pipelines.engine.bulk_events", "BulkSqliteEventLogStorage")


def instance_with(home: Path, storage: tuple[str, str] | str) -> dg.DagsterInstance:
    home.mkdir(exist_ok=True)
    settings: dict[str, Any] = {"telemetry": {"enabled": False}}
    if isinstance(storage, str):
        settings["storage"] = {"postgres": {"postgres_url": storage}}
    else:
        module, name = storage
        settings["event_log_storage"] = {"module": module, "class": name, "config": {"base_dir": str(home)}}
    (home / "dagster.yaml").write_text(yaml.safe_dump(settings))
    return dg.DagsterInstance.from_config(str(home))


def occurrences(count: int = 30) -> list[Occurrence]:
    begun = 1_767_225_600_000_000
    events: list[AssetEvent] = []
    for number in range(count):
        events.append(dg.AssetMaterialization(KEY, partition=f"app/t{number % 20}", metadata={"number": number}))
        if number % 3 == 0:
            events.append(dg.AssetMaterialization(OTHER, metadata={"number": number}, tags=TAGS))
        if number % 5 == 0:
            events.append(dg.AssetObservation(KEY, partition=f"app/t{number % 20}", metadata={"why": "failed"}))
        events.append(dg.AssetCheckEvaluation(asset_key=OTHER, check_name="good", passed=number % 2 == 0, metadata={}))
    return [(begun + number * 1_000_000, event) for number, event in enumerate(events)]


def seen(instance: dg.DagsterInstance) -> dict[str, Any]:
    """All that an instance reads back of the events of the two assets."""
    found: dict[str, Any] = {}
    for key in (KEY, OTHER):
        (record,) = instance.get_asset_records([key])
        entry = record.asset_entry
        last = entry.last_materialization
        assert last is not None
        materializations = instance.fetch_materializations(key, limit=1_000).records
        by_id = {each.storage_id: each.asset_materialization for each in materializations}
        latest = instance.get_latest_storage_id_by_partition(key, dg.DagsterEventType.ASSET_MATERIALIZATION)
        found[key.to_user_string()] = {
            "last": (last.asset_materialization, entry.last_run_id, entry.last_materialization_record is not None),
            "materializations": [(each.partition_key, each.timestamp, each.asset_materialization) for each in materializations],
            "observations": [each.asset_observation for each in instance.fetch_observations(key, limit=1_000).records],
            "partitions": instance.get_materialized_partitions(key),
            "latest": {partition: by_id[storage_id] for partition, storage_id in latest.items()},
        }
    found["check"] = [
        (record.status, record.run_id)
        for record in instance.event_log_storage.get_asset_check_execution_history(dg.AssetCheckKey(OTHER, "good"), limit=50)
    ]
    found["partitions"] = sorted(instance.get_dynamic_partitions("registered__default"))
    found["tags"] = [
        dict(tags)
        for tags in instance.event_log_storage.get_event_tags_for_asset(OTHER, filter_tags={"dagster/data_version": "1"})
    ]
    return found


def write(instance: dg.DagsterInstance, events: Sequence[Occurrence], run_id: str = "the-run") -> None:
    writer = Materializations(instance, RunOfEvents(run_id, "job", "step"))
    writer.add_partitions("registered__default", {event.partition for _, event in events if event.partition is not None})
    writer.write(events)


def test_it_reads_back_what_dagsters_own_storage_does(tmp_path: Path) -> None:
    with instance_with(tmp_path / "stock", STOCK) as stock, instance_with(tmp_path / "ours", OURS) as ours:
        assert isinstance(ours.event_log_storage, BulkSqliteEventLogStorage)
        assert not isinstance(stock.event_log_storage, BulkSqliteEventLogStorage)
        for instance in (stock, ours):
            write(instance, occurrences())
        assert seen(ours) == seen(stock)
        assert len(ours.fetch_materializations(KEY, limit=100).records) == 30


def test_postgresql_reads_back_the_same(tmp_path: Path) -> None:
    with instance_with(tmp_path / "pg", create_postgres_database()) as postgres, instance_with(tmp_path / "ours", OURS) as ours:
        for instance in (postgres, ours):
            write(instance, occurrences())
        assert seen(ours) == seen(postgres)


@pytest.mark.parametrize(("before", "after"), [(STOCK, OURS), (OURS, STOCK)], ids=["to ours", "and back"])
def test_a_home_can_change_between_the_two(tmp_path: Path, before: tuple[str, str], after: tuple[str, str]) -> None:
    with instance_with(tmp_path / "home", before) as instance:
        write(instance, occurrences(10))
        known = seen(instance)
    with instance_with(tmp_path / "home", after) as instance:
        assert seen(instance) == known
        write(instance, occurrences(10), run_id="another")
        assert len(instance.fetch_materializations(KEY, limit=100).records) == 20


def test_a_batch_is_stored_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with instance_with(tmp_path / "home", OURS) as instance:

        def broken(*_: object) -> None:
            raise RuntimeError("the disk is full")

        monkeypatch.setattr(ConsolidatedSqliteEventLogStorage, "_store_asset_event", broken)
        with pytest.raises(RuntimeError):
            write(instance, [each for each in occurrences() if isinstance(each[1], dg.AssetMaterialization)])
        assert instance.fetch_materializations(KEY, limit=5).records == []


def test_many_are_stored_in_groups_and_in_order(tmp_path: Path) -> None:
    now = int(time.time()) * 1_000_000
    many: list[Occurrence] = [(now + n, dg.AssetMaterialization(KEY, partition=str(n))) for n in range(1_100)]
    with instance_with(tmp_path / "home", OURS) as instance:
        write(instance, many)
        records = instance.fetch_materializations(KEY, limit=2_000, ascending=True).records
        assert [record.partition_key for record in records] == [str(n) for n in range(1_100)]
        (record,) = instance.get_asset_records([KEY])
        assert record.asset_entry.last_materialization is not None
        last = record.asset_entry.last_materialization.asset_materialization
        assert last is not None
        assert last.partition == "1099"
