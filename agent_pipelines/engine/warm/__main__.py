"""`python -m agent_pipelines.engine.warm process|child DESCRIPTOR`: started by the launcher, not by people."""

import sys

from agent_pipelines.engine.warm.child import run_spawned
from agent_pipelines.engine.warm.process import main

if __name__ == "__main__":
    role, descriptor = sys.argv[1], int(sys.argv[2])
    if role == "process":
        main(descriptor)
    else:
        run_spawned(descriptor)
