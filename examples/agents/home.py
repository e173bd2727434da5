"""Where the example agents keep what they write."""

import os
from pathlib import Path


def examples_home() -> Path:
    """The directory that EXAMPLES_HOME names, else `.demo/examples` below the working directory."""
    return Path(os.environ.get("EXAMPLES_HOME") or ".demo/examples").absolute()
