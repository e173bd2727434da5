"""`agent-pipelines runtime`: what agents can run on."""

import typer

from agent_pipelines.cli import render
from agent_pipelines.cli.arguments import AsJson
from agent_pipelines.runtimes import catalog
from agent_pipelines.runtimes.base import Capabilities

app = typer.Typer(help="What agents can run on.", no_args_is_help=True)


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """List the runtimes and what each can do."""
    found = {kind: catalog.runtime_type(kind).capabilities for kind in catalog.kinds()}
    if as_json:
        render.document({"runtimes": {kind: can.model_dump() for kind, can in found.items()}})
        return
    names = list(Capabilities.model_fields)
    render.table(
        ("runtime", *(name.replace("_", " ") for name in names)),
        [(kind, *("yes" if getattr(can, name) else "" for name in names)) for kind, can in found.items()],
        empty="no runtimes",
    )
