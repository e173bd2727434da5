"""Which assets have been materialized since the last look."""

from collections.abc import Collection, Mapping

from dagster import AssetKey, DagsterInstance

from agent_pipelines.core.clock import Microseconds

# How long an asset is looked at after something happened: Dagster notes an event before its asset, and the event of a writer
# that was slow may have a lower number than one that was seen.
_RESTLESS = 30 * 1_000_000


class Materializations:
    """Tells which assets are worth a look; as long as nothing at all happens in Dagster, that is one small query."""

    def __init__(self, instance: DagsterInstance) -> None:
        self._instance = instance
        self._newest_event: int | None = None
        self._newest: Mapping[str, int | None] = {}
        self._restless_until: Microseconds = 0
        self._restless: dict[str, Microseconds] = {}

    def read(self, now: Microseconds, assets: Collection[str]) -> set[str]:
        """Those of some assets that are worth a look."""
        newest_event = self._instance.event_log_storage.get_maximum_record_id()
        if newest_event != self._newest_event:
            self._newest_event, self._restless_until = newest_event, now + _RESTLESS
        elif now >= self._restless_until:
            return set()
        newest = self._read_newest(assets)
        changed = {asset: now + _RESTLESS for asset in assets if newest.get(asset) != self._newest.get(asset)}
        self._newest = newest
        self._restless = {asset: until for asset, until in self._restless.items() if until > now} | changed
        return set(self._restless)

    def _read_newest(self, assets: Collection[str]) -> Mapping[str, int | None]:
        keys = {AssetKey.from_user_string(asset): asset for asset in assets}
        entries = [record.asset_entry for record in self._instance.get_asset_records(list(keys))]
        return {keys[entry.asset_key]: entry.last_materialization_storage_id for entry in entries}
