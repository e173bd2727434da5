"""The rules of the house that a parser can hold: imports go down only, one room per foreign library, no junk rooms."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import agent_pipelines

PACKAGE = Path(agent_pipelines.__file__).parent

FLOORS = (
    ("core",),
    ("store",),
    ("runtimes", "context", "governance", "ledger", "flow", "fleet", "engine"),
    ("execution", "evolution", "insight", "adopt", "registry"),
    ("hub",),
    ("components", "web", "frames", "effects"),
    ("definitions",),
    ("cli",),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}

# Where a library may be imported: rooms, or single files. Everything else speaks to it through the room's own nouns.
FOREIGN = {
    "dagster": {"components", "engine", "definitions", "cli/scaffold.py"},
    "dagster_webserver": {"web/app.py"},
    "dagster_postgres": {"engine"},
    "dagster_celery": {"engine"},
    "celery": {"engine"},
    "redis": {"engine"},
    "sqlalchemy": {"store", "context", "governance", "ledger", "flow", "fleet", "engine", "registry/registered.py"},
    "alembic": {"store"},
    "httpx": {"runtimes"},
    "httpx_aiohttp": {"runtimes"},
    "httpx_sse": {"runtimes"},
    "aiohttp": {"runtimes"},
    "starlette": {"web"},
    "uvicorn": {"web"},
    "pandas": {"insight/frames.py"},
    "typer": {"cli"},
    "rich": {"cli"},
    "jinja2": {"context/templates.py"},
    "pyarrow": {"execution/batch/sources.py"},
    "genai_prices": {"execution/pricing.py"},
    "cronsim": {"core/trigger.py", "core/wall_times.py"},
    "holidays": {"core/calendar.py"},
    "psutil": {"engine", "runtimes", "cli"},
    "litellm": set[str](),
}
BANNED = {"utils", "helpers", "common", "manager", "misc"}


def _files() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py"))


def _room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _imports(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import; write the whole name"
            yield node.lineno, node.module or ""
            if node.module == "agent_pipelines":
                yield from ((node.lineno, f"agent_pipelines.{alias.name}") for alias in node.names)


@pytest.mark.parametrize("path", _files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down_only(path: Path) -> None:
    room = _room(path)
    if room == "__init__":
        return  # the public names come from everywhere
    assert room in FLOOR, f"{room} is not a room of the house: give it a floor here and a line in docs/design"
    for line, name in _imports(path):
        parts = name.split(".")
        if parts[0] != "agent_pipelines" or len(parts) == 1:
            continue
        other = parts[1]
        assert other == room or FLOOR[other] < FLOOR[room], f"{path}:{line}: {room} imports {name}, which is not below it"


@pytest.mark.parametrize("path", _files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_one_room_per_foreign_library(path: Path) -> None:
    relative = path.relative_to(PACKAGE).as_posix()
    for line, name in _imports(path):
        allowed = FOREIGN.get(name.split(".")[0])
        if allowed is not None:
            assert _room(path) in allowed or relative in allowed, (
                f"{path}:{line}: {name} may be imported in {sorted(allowed)} only"
            )


@pytest.mark.parametrize("path", _files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_private_parts_of_dagster_stay_in_the_engine(path: Path) -> None:
    for line, name in _imports(path):
        if name.startswith(("dagster._", "dagster.components.core", "dagster_postgres")):
            assert _room(path) == "engine", f"{path}:{line}: {name} is private to Dagster; call it in engine/"


def test_every_room_has_a_name_of_its_own() -> None:
    named = {part for path in _files() for part in path.relative_to(PACKAGE).with_suffix("").parts}
    assert not named & BANNED


def test_core_uses_pydantic_and_pure_libraries_only() -> None:
    allowed = {"pydantic", "pydantic_core", "jsonschema", "referencing", "cronsim", "holidays", "agent_pipelines"}
    import sys

    for path in (PACKAGE / "core").glob("*.py"):
        for line, name in _imports(path):
            top = name.split(".")[0]
            assert top in allowed or top in sys.stdlib_module_names, f"{path}:{line}: core may not import {name}"
