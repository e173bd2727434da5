from pathlib import Path

import pytest
import sqlalchemy as sa
import yaml
from dagster import DagsterInstance

from agent_pipelines.core.errors import StorageError
from agent_pipelines.engine.place import database_url
from agent_pipelines.store.database import Database
from agent_pipelines.store.migration import is_current, migrate


def test_sqlite_lies_in_the_root_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "elsewhere"))
    home = tmp_path / "a home with spaces"
    home.mkdir()
    with DagsterInstance.local_temp(str(home)) as instance:
        database = Database(database_url(instance))
        migrate(database)
        assert is_current(database)
        database.close()
    assert (home / "agent_pipelines.db").exists()


def test_an_ephemeral_instance_has_a_place_of_its_own() -> None:
    with DagsterInstance.ephemeral() as one, DagsterInstance.ephemeral() as other:
        assert database_url(one) != database_url(other)
        assert Path(sa.make_url(database_url(one)).database or "").parent == Path(one.root_directory)


def test_odd_names_of_directories_are_kept(tmp_path: Path) -> None:
    home = tmp_path / "50% of #1"
    home.mkdir()
    with DagsterInstance.ephemeral(str(home)) as instance:
        database = Database(database_url(instance))
        migrate(database)
        database.close()
    assert (home / "agent_pipelines.db").exists()


@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+psycopg2"])
def test_postgresql_is_shared_with_dagster(tmp_path: Path, postgres_url: str, scheme: str) -> None:
    url = postgres_url.replace("postgresql+psycopg2", scheme)
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump({"storage": {"postgres": {"postgres_url": url}}}))
    with DagsterInstance.from_config(str(tmp_path)) as instance:
        assert database_url(instance) == url
        database = Database(database_url(instance))
        migrate(database)
        assert is_current(database)
        database.close()
        assert instance.get_runs() == []
    assert not (tmp_path / "agent_pipelines.db").exists()


def test_a_storage_that_cannot_be_shared_is_refused() -> None:
    class Elsewhere:
        mysql_url = "mysql://kim@127.0.0.1/x"

    class Instance:
        run_storage = Elsewhere()

    with pytest.raises(StorageError, match=r"storage\.mysql is not supported"):
        database_url(Instance())  # pyright: ignore[reportArgumentType]
