"""`agent-pipelines status`: what runs, and whether all is well."""

import typer

from agent_pipelines.cli import render
from agent_pipelines.cli.arguments import AsJson
from agent_pipelines.cli.deployment import Deployment


def status(context: typer.Context, as_json: AsJson = False) -> None:
    """Show which processes of the deployment run, and what is wrong. Exit code 1 if something is."""
    from agent_pipelines.core.clock import SystemClock
    from agent_pipelines.engine.health import HealthCheck
    from agent_pipelines.engine.place import database_url
    from agent_pipelines.execution.fleet_standing import fleet_problems
    from agent_pipelines.fleet.nouns import Fleet
    from agent_pipelines.store.database import Database

    instance = Deployment.of(context).instance
    clock = SystemClock()
    fleet = Fleet.of(clock)
    health = HealthCheck(instance, Database(database_url(instance)), clock, lambda c: fleet_problems(c, fleet)).look()
    if as_json:
        render.document(render.record(health, is_well=health.is_well))
    else:
        render.table(
            ("what", "host", "pid", "since", ""),
            [(each.kind, each.host, each.pid, render.instant(each.since_at), each.words) for each in health.processes],
            empty="nothing runs",
        )
        render.fields(
            {
                "home": health.home,
                "runs queued": health.runs_queued,
                "runs in hand": health.runs_in_hand,
                "bursts": health.bursts,
                "ticks wait since": render.instant(health.waiting_since_at),
            }
        )
        for words in health.problems:
            render.note(f"problem: {words}")
        if health.is_well:
            render.text("all is well")
    if not health.is_well:
        raise typer.Exit(1)
