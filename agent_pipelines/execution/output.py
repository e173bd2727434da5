"""Reading an answer as the result that the task declared."""

import json
import re

from pydantic import JsonValue

from agent_pipelines.core.errors import ErrorClass, RuntimeFailure
from agent_pipelines.core.event import Final
from agent_pipelines.core.task import OutputSpec, schema_validator

_FENCED = re.compile(r"```(?:json)?\s*\n(.*?)```", re.DOTALL)
_SHOWN = 3  # violations that a message lists


def read_output(spec: OutputSpec, final: Final) -> JsonValue:
    """The structured result of an answer, None for a task that wants text.

    An answer in a Markdown code fence counts as its content. Raises RuntimeFailure (output) if the answer is no JSON
    or violates the schema; the message has the exact path of each violation.
    """
    if not spec.is_json:
        return final.output
    value = final.output if final.output is not None else _parse(final.text)
    if spec.schema_ is not None:
        violations = sorted(schema_validator(spec.schema_).iter_errors(value), key=lambda error: error.json_path)
        if violations:
            listed = "; ".join(f"{error.json_path}: {error.message[:200]}" for error in violations[:_SHOWN])
            more = f"; and {len(violations) - _SHOWN} more" if len(violations) > _SHOWN else ""
            raise RuntimeFailure(ErrorClass.OUTPUT, f"the answer violates the schema: {listed}{more}")
    return value


def _parse(text: str) -> JsonValue:
    fenced = _FENCED.findall(text)
    candidate = text.strip() if not fenced else str(fenced[-1]).strip()
    try:
        return json.loads(candidate)
    except ValueError as error:
        raise RuntimeFailure(ErrorClass.OUTPUT, f"the answer is not JSON: {error}; it begins with {candidate[:80]!r}") from None
