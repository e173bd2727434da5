"""Serves the example agents: `python -m examples.agents --port 0 --ready-file FILE`.

With AGENT_BASE_URL and AGENT_MODEL set, and AGENT_API_KEY if the endpoint asks for one, a model decides in place of the
rules and holds the same tools.
"""

import argparse
import os
from pathlib import Path

import uvicorn

from examples.agents.answer import Mind
from examples.agents.catalog import catalog
from examples.agents.home import examples_home
from examples.agents.model import Model
from examples.agents.ready import announce, listen
from examples.agents.rules import Rules
from examples.agents.server import create_app


def mind_from_environment() -> Mind:
    """A model if the environment names one, else the rules."""
    base_url, model = os.environ.get("AGENT_BASE_URL"), os.environ.get("AGENT_MODEL")
    if bool(base_url) != bool(model):
        raise SystemExit("AGENT_BASE_URL and AGENT_MODEL go together: set both for a model, none for the rules")
    return Model(base_url, model, os.environ.get("AGENT_API_KEY")) if base_url and model else Rules()


def main() -> None:
    """Read the command line and serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m examples.agents", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--ready-file", type=Path, help="written as JSON (host, port, pid) once the agents can be asked")
    options = parser.parse_args()
    mind = mind_from_environment()
    listener = listen(options.host, options.port)
    app = create_app(catalog(examples_home()), mind, on_start=lambda: announce(listener, options.ready_file))
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=5)
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
