import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent_pipelines.store.database import Database
from agent_pipelines.store.storable import storable, storable_text
from agent_pipelines.store.tables import audit


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert storable_text(text) == text


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
@given(st.text(alphabet=st.characters(categories=["Cs", "Cc", "L"])))
def test_any_text_comes_back_from_both_databases(database: Database, text: str) -> None:
    clean = storable_text(text)
    row = {"workspace": "w", "at": 1, "actor": clean, "action": "a", "object": "o", "details": storable({text: [text, 1, None]})}
    with database.transaction() as connection:
        seq = connection.execute(audit.insert().values(**row).returning(audit.c.seq)).scalar_one()
        found = connection.execute(sa.select(audit).where(audit.c.seq == seq)).one()
    assert (found.actor, found.details) == (clean, {clean: [clean, 1, None]})


@pytest.mark.parametrize(("text", "stored"), [("a\0b", "a\ufffdb"), ("\ud83d", "?"), ("\U0001f600", "\U0001f600")])
def test_what_cannot_be_stored_is_marked(text: str, stored: str) -> None:
    assert storable_text(text) == stored
