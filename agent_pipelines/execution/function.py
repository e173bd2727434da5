"""Functions that a declaration names."""

import importlib
from collections.abc import Callable
from typing import Any

from agent_pipelines.core.errors import DefinitionError


def load_function(reference: str, field: str) -> Callable[..., Any]:
    """Import the function at `module:function` that a field names. Raises DefinitionError if it cannot be imported."""
    module_name, _, name = reference.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        fix = "Write `module:function` of an importable module"
        raise DefinitionError(f"{reference!r} cannot be imported ({error})", field=field, fix=fix) from None
    if not callable(found):
        raise DefinitionError(f"{reference!r} is not a function", field=field, fix="Write `module:function`")
    return found
