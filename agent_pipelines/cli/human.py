"""`agent-pipelines human`: what people are asked, and their answers."""

import json
from typing import TYPE_CHECKING, Literal

import typer
from pydantic import JsonValue

from agent_pipelines.cli import render
from agent_pipelines.cli.arguments import Application, AsJson, Before, Limit, Task
from agent_pipelines.cli.deployment import Deployment
from agent_pipelines.cli.problems import BadInput

if TYPE_CHECKING:
    from agent_pipelines.governance.human_tasks import HumanTask

app = typer.Typer(help="What people are asked, and their answers.", no_args_is_help=True)


@app.command("list")
def list_(
    context: typer.Context,
    application: Application = None,
    task: Task = None,
    subject: Literal["effect", "degraded", "approval", "question"] | None = typer.Option(None, help="Only about this."),
    state: Literal["open", "answered", "all"] = typer.Option("open", help="Only those in this state."),
    before: Before = None,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """List human tasks, newest first; those that are open if nothing else is asked for."""
    deployment = Deployment.of(context)
    hub = deployment.hub
    application, task = deployment.chosen(application, task)
    with hub.database.reading() as connection:
        page = hub.human_tasks.list(
            connection,
            application=application,
            task=task,
            subject=subject,
            is_open=None if state == "all" else state == "open",
            before=before,
            limit=limit,
        )
    last = page[-1].seq if page else None
    if as_json:
        found = [render.record(each) for each in page]
        render.document({"human_tasks": found, "next_before": last if len(page) == limit else None})
        return
    render.table(
        ("seq", "id", "task", "about", "asked", "question", "options", "answer"),
        [
            (
                each.seq,
                render.short(each.id),
                each.path,
                each.subject,
                render.instant(each.opened_at),
                render.brief(each.question),
                ", ".join(each.options),
                "open" if each.answer is None else render.brief(each.answer),
            )
            for each in page
        ],
        empty="nothing is asked",
    )
    render.more(page, limit, last)


@app.command()
def show(context: typer.Context, id: str = typer.Argument(help="Id, or its first digits."), as_json: AsJson = False) -> None:
    """Show a human task: what is asked, what is known about it, and the answer."""
    _print(_find(Deployment.of(context), id), as_json)


@app.command()
def answer(
    context: typer.Context,
    id: str = typer.Argument(help="Id, or its first digits."),
    answer: str = typer.Argument(help="The answer, one of the options if there are some."),
    data: str | None = typer.Option(None, help="What the answer brings with it, JSON: an edited text, say."),
    comment: str | None = typer.Option(None, help="Why, for the record."),
    as_json: AsJson = False,
) -> None:
    """Answer a human task; what waits for it goes on."""
    deployment = Deployment.of(context)
    brought: JsonValue = None
    if data is not None:
        try:
            brought = json.loads(data)
        except ValueError as error:
            raise BadInput(f"--data is not JSON: {error}") from None
    found = _find(deployment, id)
    with deployment.hub.database.transaction() as connection:
        done = deployment.hub.human_tasks.answer(
            connection, found.id, answer, actor=deployment.actor, data=brought, comment=comment
        )
    _print(done, as_json)


def _print(task: "HumanTask", as_json: bool) -> None:
    if as_json:
        render.document({"human_task": render.record(task)})
        return
    render.fields(
        {
            "id": task.id,
            "task": task.path,
            "execution": task.execution_id,
            "about": f"{task.subject} {task.subject_id}",
            "asked": f"{render.instant(task.opened_at)} by {task.opened_by}",
            "question": task.question,
            "options": ", ".join(task.options) or "any text",
            "answer": "open" if task.answer is None else task.answer,
            "answered": None if task.is_open else f"{render.instant(task.answered_at)} by {task.answered_by}",
            "comment": task.comment,
        }
    )
    for title, value in (("context", task.context), ("answer's data", task.answer_data)):
        if value:
            render.heading(title)
            render.text(render.indented(value))


def _find(deployment: Deployment, prefix: str) -> "HumanTask":
    with deployment.hub.database.reading() as connection:
        found = deployment.hub.human_tasks.find(connection, prefix)
    if not found:
        raise BadInput(f"no human task's id begins with {prefix!r}; `agent-pipelines human list` shows those that there are")
    if len(found) > 1:
        raise BadInput(f"several human tasks' ids begin with {prefix!r}: {', '.join(each.id for each in found)}, ...")
    return found[0]
