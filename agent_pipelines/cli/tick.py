"""`agent-pipelines tick`: what was due, and what became of it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer

from agent_pipelines.cli import render
from agent_pipelines.cli.arguments import Application, AsJson, Before, Limit, Since, Task, Until, instant
from agent_pipelines.cli.deployment import Deployment
from agent_pipelines.cli.problems import FAILURE, BadInput
from agent_pipelines.core.clock import isoformat
from agent_pipelines.core.execution import Verdict

if TYPE_CHECKING:
    from agent_pipelines.insight.books import Account, Books, Gap

_GAPS = 20  # that are listed unless all are asked for

app = typer.Typer(help="What was due, and what became of it.", no_args_is_help=True)


@app.command("list")
def list_(
    context: typer.Context,
    application: Application = None,
    task: Task = None,
    trigger: str | None = typer.Option(None, help="Only the trigger of this name."),
    since: Since = None,
    until: Until = None,
    before: Before = None,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """List ticks, newest first: when each was due, its verdict, and why."""
    deployment = Deployment.of(context)
    hub, now = deployment.hub, deployment.hub.clock.now()
    application, task = deployment.chosen(application, task)
    with hub.database.reading() as connection:
        page = hub.ticks.list(
            connection,
            application=application,
            task=task,
            trigger=trigger,
            due_from=instant(since, "--since", now),
            due_to=instant(until, "--until", now),
            before=before,
            limit=limit,
        )
    last = page[-1].seq if page else None
    if as_json:
        render.document({"ticks": [render.record(tick) for tick in page], "next_before": last if len(page) == limit else None})
        return
    render.table(
        ("task", "trigger", "due", "verdict", "execution", "reason"),
        [
            (
                f"{tick.application}/{tick.task}",
                tick.trigger,
                render.instant(tick.due_at),
                tick.verdict or "open",
                render.short(tick.execution_id),
                tick.reason,
            )
            for tick in page
        ],
        empty="no ticks",
    )
    render.more(page, limit, last)


@app.command()
def audit(
    context: typer.Context,
    since: Since = "24h",
    until: Until = None,
    application: Application = None,
    task: Task = None,
    verbose: bool = typer.Option(False, "--verbose", "-v", help="Each trigger, and every gap."),
    as_json: AsJson = False,
) -> None:
    """Close the books: compare the ticks with what was due by a second reading. Exits with 1 if they do not close."""
    deployment = Deployment.of(context)
    hub, now = deployment.hub, deployment.hub.clock.now()
    application, task = deployment.chosen(application, task, due=True)
    begin, end = instant(since, "--since", now), instant(until, "--until", now)
    if begin is None or begin >= (now if end is None else end):
        raise BadInput(f"--since {since!r} is not before --until; there is nothing to audit")
    books = hub.witness.books(begin, end, workspace="default", application=application, task=task)
    if as_json:
        render.document(_document(books))
    else:
        _print(books, verbose=verbose)
    if not books.closes:
        raise typer.Exit(FAILURE)


_NUMBERS = ("due", *map(str, Verdict), "open", "not_yet", "gaps", "extras")


def _print(books: "Books", *, verbose: bool) -> None:
    from agent_pipelines.insight.books import summed

    if verbose:
        rows = [(account.path, account.trigger, *_row(account)) for account in books.accounts]
        render.table(("task", "trigger", "kind", *map(_words, _NUMBERS)), rows, empty="nothing was due")
    else:
        kinds = sorted({account.kind for account in books.accounts})
        rows = [_row(summed([each for each in books.accounts if each.kind == kind], kind)) for kind in kinds]
        render.table(("kind", *map(_words, _NUMBERS)), rows, empty="nothing was due")
    if books.gaps:
        render.heading("Gaps")
        shown = books.gaps if verbose else books.gaps[:_GAPS]
        render.table(("task", "trigger", "first", "last", "instants"), [_gap(gap) for gap in shown], empty="")
        if len(shown) < len(books.gaps):
            render.note(f"{len(books.gaps) - len(shown)} more: --verbose")
    overdue = [account for account in books.accounts if account.overdue]
    if overdue:
        render.heading("Open for too long")
        rows = [(each.path, each.trigger, each.overdue, render.instant(each.open_since)) for each in overdue]
        render.table(("task", "trigger", "ticks", "since"), rows, empty="")
    render.text("")
    render.text(_conclusion(books))


def _conclusion(books: "Books") -> str:
    total = books.total
    period = f"{render.instant(books.since)} to {render.instant(books.until)}"
    if books.watched == 0:
        return f"{period}: no daemon of agent-pipelines kept the time; nothing to audit"
    if books.closes:
        return f"{period}: closes; {total.due} due, all accounted for; triggers: {books.watched}"
    return f"{period}: does not close; of {total.due} due: {', '.join(books.problems)}"


def _row(account: "Account") -> Sequence[Any]:
    return (account.kind, *_numbers(account).values())


def _numbers(account: "Account") -> dict[str, int]:
    verdicts = {str(verdict): account.verdicts.get(str(verdict), 0) for verdict in Verdict}
    return {name: verdicts[name] if name in verdicts else getattr(account, name) for name in _NUMBERS}


def _gap(gap: "Gap") -> Sequence[Any]:
    return (gap.path, gap.trigger, render.instant(gap.first), render.instant(gap.last), gap.instants)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _document(books: "Books") -> dict[str, Any]:
    def numbers(account: "Account") -> dict[str, Any]:
        besides = ("overdue", "found", "withdrawn", "doubles")
        return {**_numbers(account), **{name: getattr(account, name) for name in besides}}

    return {
        "since": isoformat(books.since),
        "until": isoformat(books.until),
        "at": isoformat(books.at),
        "closes": books.closes,
        "problems": books.problems,
        "watched": books.watched,
        "total": numbers(books.total),
        "accounts": [{"task": each.path, "trigger": each.trigger, "kind": each.kind, **numbers(each)} for each in books.accounts],
        "gaps": [
            {
                "task": gap.path,
                "trigger": gap.trigger,
                "first": isoformat(gap.first),
                "last": isoformat(gap.last),
                "instants": gap.instants,
            }
            for gap in books.gaps
        ],
    }
