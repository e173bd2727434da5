"""How the deployment stands, for people, for load balancers and for programs."""

import asyncio
from collections.abc import Callable, Sequence
from html import escape
from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route

from agent_pipelines.core.clock import Microseconds, isoformat
from agent_pipelines.core.plain import record
from agent_pipelines.core.secrets import redactor
from agent_pipelines.engine.health import Health
from agent_pipelines.web.call import Call
from agent_pipelines.web.operation import Answer, Operation

_FRESH = {"Cache-Control": "no-store"}

Look = Callable[[], Health]


def status_operation(look: Look) -> Operation:
    """The operation of the interface that tells everything."""

    def status(_: Call) -> Answer:
        health = look()
        return HTTPStatus.OK, record(health, is_well=health.is_well)

    return Operation("GET", "/status", "Which processes of the deployment run, and what is wrong.", status)


def health_routes(look: Look) -> Sequence[BaseRoute]:
    """`/health` says yes or no, 200 or 503; `/status` is a page. Like Dagster's pages they ask for no token."""

    async def health(_: Request) -> Response:
        found = await asyncio.to_thread(look)
        words = "ok" if found.is_well else "failing"
        return JSONResponse({"status": words, "problems": len(found.problems)}, _code(found), headers=_FRESH)

    async def status(_: Request) -> Response:
        found = await asyncio.to_thread(look)
        return HTMLResponse(_page(found), _code(found), headers=_FRESH)

    return [Route("/health", health), Route("/status", status)]


def _code(health: Health) -> HTTPStatus:
    return HTTPStatus.OK if health.is_well else HTTPStatus.SERVICE_UNAVAILABLE


def _page(health: Health) -> str:
    problems = "".join(f"<li>{_safe(words)}</li>" for words in health.problems)
    processes = "".join(_row(each.kind, each.host, each.pid, _instant(each.since_at), each.words) for each in health.processes)
    numbers = {
        "runs queued": health.runs_queued,
        "runs in hand": health.runs_in_hand,
        "bursts": health.bursts,
        "ticks wait since": _instant(health.waiting_since_at),
    }
    return _PAGE.format(
        state="all is well" if health.is_well else "something is wrong",
        tone="well" if health.is_well else "ill",
        problems=f"<ul>{problems}</ul>" if problems else "",
        processes=processes,
        numbers="".join(_row(name, "–" if value is None else value) for name, value in numbers.items()),
        at=_instant(health.at),
        home=_safe(health.home),
    )


def _row(*cells: object) -> str:
    return "<tr>" + "".join(f"<td>{_safe(str(cell))}</td>" for cell in cells) + "</tr>"


def _safe(words: str) -> str:
    # In this order: what is escaped no longer looks like the secret.
    return escape(redactor.text(words))


def _instant(at: Microseconds | None) -> str:
    return "–" if at is None else isoformat(at - at % 1_000_000)


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="10"><title>agent-pipelines: {state}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222; }}
h1 {{ font-size: 1.4rem; }} .well {{ color: #176b3a; }} .ill {{ color: #a3211b; }}
table {{ border-collapse: collapse; margin: 1rem 0; }} td, th {{ text-align: left; padding: .25rem 1.2rem .25rem 0; }}
tr + tr td {{ border-top: 1px solid #ddd; }} p {{ color: #666; }}
</style></head>
<body><h1 class="{tone}">{state}</h1>{problems}
<table><tr><th>what</th><th>host</th><th>pid</th><th>since</th><th></th></tr>{processes}</table>
<table>{numbers}</table>
<p>{home}, as of {at}. <a href="/">Dagster's pages</a></p></body></html>
"""
