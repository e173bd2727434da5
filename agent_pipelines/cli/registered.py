"""`agent-pipelines task`, the commands that change tasks: registering them, switching them on and off, their versions."""

import difflib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agent_pipelines.cli import render
from agent_pipelines.cli.arguments import AsJson, Limit
from agent_pipelines.cli.deployment import Deployment
from agent_pipelines.cli.problems import BadInput
from agent_pipelines.cli.task import Name

if TYPE_CHECKING:
    from agent_pipelines.insight.tasks import KnownTask
    from agent_pipelines.registry.registered import RegisteredTask
    from agent_pipelines.registry.registry import Registration

app = typer.Typer()

_SHOWN = 50  # tasks that a registration names one by one


@app.command()
def register(
    context: typer.Context,
    files: Annotated[
        list[Path] | None, typer.Argument(help="YAML or JSON, one task or many; - is standard input.", metavar="FILE...")
    ] = None,
    from_jsonl: Annotated[Path | None, typer.Option(help="File with one task a line, as JSON; - is standard input.")] = None,
    as_json: AsJson = False,
) -> None:
    """Register tasks, or new versions of them; they are in force at once, without a reload.

    A file holds a task, a list of tasks, or several documents. A specification that a task has already is no new version.
    """
    from agent_pipelines.core.errors import DefinitionError
    from agent_pipelines.core.problems import refuse
    from agent_pipelines.registry.reading import read_spec

    if not files and from_jsonl is None:
        raise BadInput("there is nothing to register; name a file, or - for standard input")
    deployment = Deployment.of(context)
    specs, places, problems = [], [], []
    for place, values in _written(files or [], from_jsonl):
        try:
            specs.append(read_spec(values, place=place))
            places.append(place)
        except DefinitionError as error:
            problems.append(error)
    refuse(problems)
    done = deployment.hub.registry.register_many(specs, deployment.declared, actor=deployment.actor, places=places)
    if as_json:
        render.document({"tasks": [_registration(each) for each in done]})
    elif len(done) <= _SHOWN:
        render.table(
            ("task", "version", "state", "what"),
            [(each.task.path, each.task.version, each.task.state, _what(each)) for each in done],
            empty="no tasks",
        )
    else:
        new = sum(each.is_new for each in done)
        render.text(f"{new} registered, {len(done) - new} as they were")
    if any(spec.triggers for spec in specs) and not deployment.keeps_time():
        render.note("no daemon keeps the time, so nothing is due yet: start `agent-pipelines up`")


@app.command()
def enable(context: typer.Context, task: Name, as_json: AsJson = False) -> None:
    """Switch a registered task on."""
    deployment = Deployment.of(context)
    key = _registered(deployment, task, "its schedules are switched in the web UI").spec.key
    _tell(deployment.hub.registry.enable(key, actor=deployment.actor), as_json)


@app.command()
def disable(context: typer.Context, task: Name, as_json: AsJson = False) -> None:
    """Switch a registered task off; it still runs on demand."""
    deployment = Deployment.of(context)
    key = _registered(deployment, task, "its schedules are switched in the web UI").spec.key
    _tell(deployment.hub.registry.disable(key, actor=deployment.actor), as_json)


@app.command()
def pause(
    context: typer.Context,
    task: Name,
    reason: Annotated[str, typer.Option(help="Why; it is shown until the task is resumed.")],
    as_json: AsJson = False,
) -> None:
    """Hold the triggers of a task, registered or declared, until it is resumed; it still runs on demand."""
    deployment = Deployment.of(context)
    known, hub = deployment.task(task), deployment.hub
    if known.version is not None:
        _tell(hub.registry.pause(known.spec.key, reason, actor=deployment.actor), as_json)
    else:
        _must_be_declared(known)
        on = _switched_on(deployment, known)
        _tell_triggers(known, "paused", hub.pauses.pause(known.spec, reason, switched_on=on, actor=deployment.actor), as_json)


@app.command()
def resume(context: typer.Context, task: Name, as_json: AsJson = False) -> None:
    """End the pause of a task; what was due meanwhile is not caught up."""
    deployment = Deployment.of(context)
    known, hub = deployment.task(task), deployment.hub
    if known.version is not None:
        _tell(hub.registry.resume(known.spec.key, actor=deployment.actor), as_json)
    else:
        _must_be_declared(known)
        on = _switched_on(deployment, known)
        _tell_triggers(known, "resumed", hub.pauses.resume(known.spec, switched_on=on, actor=deployment.actor), as_json)


@app.command()
def remove(context: typer.Context, task: Name, as_json: AsJson = False) -> None:
    """Take a registered task out; its versions and its record stay."""
    deployment = Deployment.of(context)
    key = _registered(deployment, task, "take its folder out of the project").spec.key
    _tell(deployment.hub.registry.remove(key, actor=deployment.actor), as_json)


@app.command()
def versions(
    context: typer.Context,
    task: Name,
    before: Annotated[int | None, typer.Option(help="The page after this version.", metavar="VERSION")] = None,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """List the versions of a registered task, newest first: who registered each, and when."""
    deployment = Deployment.of(context)
    known, hub = _registered(deployment, task, "its versions are in git"), deployment.hub
    with hub.database.reading() as connection:
        page = hub.registered.versions(connection, known.spec.key, before=before, limit=limit)
    last = page[-1].version if page else None
    if as_json:
        render.document({"versions": [render.record(each) for each in page], "next_before": last if len(page) == limit else None})
        return
    render.table(
        ("version", "registered", "by", "specification"),
        [(each.version, render.instant(each.created_at), each.actor, each.spec_hash[:12]) for each in page],
        empty="no versions",
    )
    render.more(page, limit, last)


@app.command()
def diff(
    context: typer.Context,
    task: Name,
    old: Annotated[int | None, typer.Argument(help="Version; the one before the new one by default.")] = None,
    new: Annotated[int | None, typer.Argument(help="Version; the present one by default.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what differs between two versions of a registered task."""
    deployment = Deployment.of(context)
    known = _registered(deployment, task, "its versions are in git")
    assert known.version is not None
    later = new or known.version
    earlier = old or max(later - 1, 1)
    before, after = (_yaml_of(deployment, known, number) for number in (earlier, later))
    lines = difflib.unified_diff(before, after, f"version {earlier}", f"version {later}", lineterm="")
    words = "\n".join(lines)
    if as_json:
        render.document({"old": earlier, "new": later, "diff": words})
    elif words:
        render.text(words)
    else:
        render.note("no difference")


def _written(files: list[Path], from_jsonl: Path | None) -> Iterator[tuple[str, Any]]:
    """What stands in the files, each task with its place."""
    for file in files:
        text = _text(file)
        documents = [_json(text, str(file))] if file.suffix == ".json" else _yaml_documents(text, file)
        several = len(documents) > 1
        for number, document in enumerate(documents, start=1):
            place = f"{file}, document {number}" if several else str(file)
            if isinstance(document, list):
                yield from ((f"{place}, item {index}", item) for index, item in enumerate(document, start=1))
            else:
                yield place, document
    if from_jsonl is not None:
        for number, line in enumerate(_text(from_jsonl).splitlines(), start=1):
            if line.strip():
                yield f"{from_jsonl}:{number}", _json(line, f"{from_jsonl}:{number}")


def _yaml_documents(text: str, file: Path) -> list[Any]:
    import yaml

    # The loader in C is ten times as fast, where there is one.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return [document for document in yaml.load_all(text, loader) if document is not None]
    except yaml.YAMLError as error:
        raise BadInput(f"{file} is neither YAML nor JSON: {' '.join(str(error).split())}") from None


def _json(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise BadInput(f"{place} is not JSON: {error}") from None


def _text(file: Path) -> str:
    try:
        return sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{file} cannot be read: {error}") from None


def _registered(deployment: Deployment, name: str, otherwise: str) -> "KnownTask":
    known = deployment.task(name)
    if known.version is None:
        _must_be_declared(known)
        raise BadInput(f"task {known.spec.path} is declared in the project; {otherwise}")
    return known


def _must_be_declared(known: "KnownTask") -> None:
    if not known.is_declared:
        raise BadInput(f"task {known.spec.path} is neither declared nor registered, only the record knows it")


def _switched_on(deployment: Deployment, known: "KnownTask") -> dict[str, bool]:
    from agent_pipelines.insight.tasks import switched_on

    return switched_on(known.spec, deployment.switched)


def _yaml_of(deployment: Deployment, known: "KnownTask", number: int) -> list[str]:
    hub = deployment.hub
    with hub.database.reading() as connection:
        version = hub.registered.version(connection, known.spec.key, number)
        spec = version and hub.ledger.specs.get(connection, version.spec_hash)
    if spec is None:
        raise BadInput(f"task {known.spec.path} has no version {number}; it has versions 1 to {known.version}")
    return render.yaml(spec.canonical()).splitlines()


def _what(registration: "Registration") -> str:
    if not registration.is_new:
        return "as it was"
    return "new" if registration.task.version == 1 else "new version"


def _registration(registration: "Registration") -> dict[str, Any]:
    return render.record(registration.task, new=registration.is_new)


def _tell(task: "RegisteredTask", as_json: bool) -> None:
    if as_json:
        render.document({"task": render.record(task)})
    else:
        render.text(f"{task.path}: {task.state}" + ("" if task.reason is None else f", {task.reason}"))


def _tell_triggers(known: "KnownTask", done: str, triggers: Any, as_json: bool) -> None:
    if as_json:
        render.document({"task": known.spec.path, "triggers": list(triggers), "done": done})
    else:
        render.text(f"{known.spec.path}: {done} {', '.join(triggers)}")
