"""`agent-pipelines limit`: how much may happen at once or in a length of time, and who waits for it."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from agent_pipelines.cli import render
from agent_pipelines.cli.arguments import AsJson
from agent_pipelines.cli.deployment import Deployment
from agent_pipelines.cli.problems import BadInput

if TYPE_CHECKING:
    from agent_pipelines.core.limit import LimitSpec
    from agent_pipelines.registry.limiting import LimitStanding

app = typer.Typer(help="Limits over all processes, and who waits for them.", no_args_is_help=True)

Scope = Annotated[
    str, typer.Argument(help="application/NAME, agent/NAME, provider/NAME, task/APPLICATION/NAME, node/AGENT/NODE, resource/KEY.")
]


@app.command("list")
def list_(context: typer.Context, as_json: AsJson = False) -> None:
    """List all limits: where each comes from, what runs and waits under it, and how long the first one has waited."""
    standing = Deployment.of(context).hub.limiting.standing()
    if as_json:
        render.document({"limits": [render.record(each) for each in standing]})
        return
    render.table(
        ("scope", "limit", "origin", "running", "waiting", "longest wait"),
        [
            (each.scope, _words(each), _origin(each), each.running, each.waiting, _seconds(each.waited_us if each.waiting else 0))
            for each in standing
        ],
        empty="no limits",
    )


@app.command("set")
def set_(
    context: typer.Context,
    scope: Scope,
    concurrency: Annotated[int | None, typer.Option(help="Executions at once.")] = None,
    requests: Annotated[str | None, typer.Option(help="Requests in each period, as in 10/s.")] = None,
    requests_burst: Annotated[int | None, typer.Option(help="Requests at once after a rest, above the rate.")] = None,
    tokens: Annotated[str | None, typer.Option(help="Tokens in each period, as in 100000/m.")] = None,
    tokens_burst: Annotated[int | None, typer.Option(help="Tokens at once after a rest, above the rate.")] = None,
    as_json: AsJson = False,
) -> None:
    """Set the limit of a scope, over the one that a project declares; it is in force within a second."""
    deployment = Deployment.of(context)
    spec = _spec(
        scope=scope,
        concurrency=concurrency,
        requests=requests,
        requests_burst=requests_burst,
        tokens=tokens,
        tokens_burst=tokens_burst,
    )
    _tell(deployment.hub.limiting.set(spec, actor=deployment.actor), spec.scope, as_json)


@app.command()
def clear(context: typer.Context, scope: Scope, as_json: AsJson = False) -> None:
    """Take back what was set for a scope; a declared limit holds again."""
    deployment = Deployment.of(context)
    try:
        found = deployment.hub.limiting.clear(scope, actor=deployment.actor)
    except ValueError as error:
        raise BadInput(str(error)) from None
    _tell(found, scope, as_json)


@app.command()
def queue(context: typer.Context, as_json: AsJson = False) -> None:
    """List what runs and waits under limits, by process, application and class, in the order in which it goes on."""
    hub = Deployment.of(context).hub
    now, waiting = hub.clock.now(), hub.limiting.queue()
    if as_json:
        told = [render.record(each, waited_seconds=_waited(each.waits_since, now)) for each in waiting]
        render.document({"queue": told})
        return
    render.table(
        ("class", "application", "priority", "running", "waiting", "longest wait", "process", "scopes"),
        [
            (
                each.priority_class,
                each.application,
                each.priority,
                each.running,
                each.waiting,
                f"{_waited(each.waits_since, now):.1f} s",
                f"{each.host}:{each.pid}",
                " ".join(each.scopes),
            )
            for each in waiting
        ],
        empty="nothing waits",
    )


def _spec(**values: Any) -> "LimitSpec":
    from pydantic import ValidationError

    from agent_pipelines.core.limit import LimitSpec
    from agent_pipelines.core.refusals import field_of, refusals

    try:
        return LimitSpec.model_validate(values)
    except ValidationError as error:
        first = next(iter(refusals(LimitSpec, error)))
        field = field_of(first.way)
        named = {"": "", "scope": "SCOPE: "}.get(field, f"--{field.replace('_', '-')}: ")
        raise BadInput(f"{named}{first.words}{'. ' + first.fix if first.fix else ''}") from None


def _tell(standing: "LimitStanding | None", scope: str, as_json: bool) -> None:
    if as_json:
        render.document({"limit": None if standing is None else render.record(standing)})
    elif standing is None:
        render.text(f"{scope}: no limit")
    else:
        render.text(f"{standing.scope}: {_words(standing)}, {_origin(standing)}")


def _words(limit: "LimitStanding") -> str:
    parts = [
        None if limit.concurrency is None else f"{limit.concurrency} at once",
        None if limit.requests is None else f"{limit.requests} requests{_burst(limit.requests_burst)}",
        None if limit.tokens is None else f"{limit.tokens} tokens{_burst(limit.tokens_burst)}",
    ]
    return ", ".join(part for part in parts if part is not None)


def _burst(amount: int | None) -> str:
    return "" if amount is None else f" and {amount} after a rest"


def _origin(limit: "LimitStanding") -> str:
    place = "" if limit.place is None else f" in {limit.place}"
    overrides = f", over {', '.join(limit.overrides)}" if limit.overrides else ""
    return f"{limit.origin}{place}{overrides}"


def _seconds(microseconds: int) -> str:
    return f"{microseconds / 1_000_000:.1f} s"


def _waited(since: int | None, now: int) -> float:
    return 0.0 if since is None else max(0, now - since) / 1_000_000
