"""What the pages say is done as they say it, in a directory of its own."""

from pathlib import Path

import pytest
import sqlalchemy as sa

from agent_pipelines_tests.docs.following import follow, shows, told
from agent_pipelines_tests.docs.markdown import ROOT, name, pages

FOLLOWED = [page for page in pages() if page.parent.name in (ROOT.name, "docs", "how-to") and page.name != "glossary.md"]


def _connection(url: str) -> dict[str, str]:
    parts = sa.make_url(url)
    values = {"HOST": parts.host, "PORT": parts.port, "USER": parts.username, "PASSWORD": "any", "DATABASE": parts.database}
    return {f"AGENT_PIPELINES_PG_{name}": str(value) for name, value in values.items()}


@pytest.mark.timeout(300)  # many commands, on a machine that may be busy
@pytest.mark.parametrize("page", FOLLOWED, ids=name)
def test_page_works_as_written(page: Path, tmp_path: Path, commands: Path, request: pytest.FixtureRequest) -> None:
    variables = {} if page.name != "postgresql.md" else _connection(request.getfixturevalue("postgres_url"))
    for followed in follow(page, tmp_path, commands, variables):
        if followed.expected is not None:
            where = f"{name(page)}:{followed.block.line}"
            assert shows(followed.expected, followed.printed), f"{where} printed:\n" + "\n".join(told(followed.printed))
