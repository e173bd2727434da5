import pytest

from agent_pipelines.hub import Hub
from agent_pipelines.registry.registered import RegisteredTask
from agent_pipelines_tests.registry.conftest import DECLARED, spec


@pytest.fixture
def many(hub: Hub) -> Hub:
    specs = [
        spec(f"t{number:02}", application=("mail", "news")[number % 2], agent=("writer", "inspector")[number % 3 == 0])
        for number in range(20)
    ]
    hub.registry.register_many(specs, DECLARED, actor="a")
    return hub


def test_pages_follow_one_another(many: Hub) -> None:
    seen: list[str] = []
    after: str | None = None
    with many.database.reading() as connection:
        while page := many.registered.list(connection, after=after, limit=7):
            assert len(page) <= 7
            seen += [task.path for task in page]
            after = page[-1].path
    assert seen == sorted(seen)
    assert len(seen) == 20


def test_filters(many: Hub) -> None:
    many.registry.pause(("default", "mail", "t04"), "why", actor="b")

    def paths(found: "list[RegisteredTask]") -> list[str]:
        return [task.path for task in found]

    with many.database.reading() as connection:
        tasks = many.registered
        assert len(tasks.list(connection, application="mail")) == 10
        assert len(tasks.list(connection, agent="inspector")) == 7
        assert paths(list(tasks.list(connection, state="paused"))) == ["mail/t04"]
        assert paths(list(tasks.list(connection, text="il/t0"))) == [f"mail/t0{number}" for number in (0, 2, 4, 6, 8)]
        assert tasks.list(connection, text="%") == []
        assert paths(list(tasks.named(connection, "t03"))) == ["news/t03"]
        assert tasks.list(connection, workspace="lab") == []
        assert tasks.tasks_of_agent(connection, "inspector")[:2] == [("default", "mail", "t00"), ("default", "mail", "t06")]


def test_versions_come_in_pages(hub: Hub) -> None:
    for number in range(5):
        hub.registry.register(spec(prompt=f"Look {number}"), DECLARED, actor=f"a{number}")
    key = spec().key
    with hub.database.reading() as connection:
        newest = hub.registered.versions(connection, key, limit=2)
        assert [version.version for version in newest] == [5, 4]
        assert [version.version for version in hub.registered.versions(connection, key, before=4)] == [3, 2, 1]
        third = hub.registered.version(connection, key, 3)
        assert third is not None
        kept = hub.ledger.specs.get(connection, third.spec_hash)
        assert kept is not None
        assert (kept.prompt, third.actor) == ("Look 2", "a2")
        assert hub.registered.version(connection, key, 6) is None


def test_the_tasks_of_an_agent_are_found_by_index(hub: Hub) -> None:
    hub.registry.register(spec(), DECLARED, actor="a")
    with hub.database.reading() as connection:
        explain = "EXPLAIN QUERY PLAN" if hub.database.is_sqlite else "EXPLAIN"
        if not hub.database.is_sqlite:
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        query = "SELECT application, task FROM registered_tasks WHERE workspace = 'default' AND agent = 'writer'"
        plan = " ".join(str(row) for row in connection.exec_driver_sql(f"{explain} {query}"))
    assert "ix_registered_tasks_agent" in plan
