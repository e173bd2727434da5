"""What is wrong with declarations, all of it at once."""

from collections.abc import Sequence

from agent_pipelines.core.errors import DefinitionError


class DefinitionErrors(DefinitionError):
    """Several declarations cannot be used; `problems` has one error for each."""

    def __init__(self, problems: Sequence[DefinitionError]) -> None:
        super().__init__("\n".join([f"{len(problems)} problems in the definitions:", *(f"- {problem}" for problem in problems)]))
        self.problems = tuple(problems)


def refuse(problems: Sequence[DefinitionError]) -> None:
    """Raise what is wrong as one error; does nothing if nothing is."""
    flat = [part for problem in problems for part in (problem.problems if isinstance(problem, DefinitionErrors) else (problem,))]
    if len(flat) == 1:
        raise flat[0]
    if flat:
        raise DefinitionErrors(flat)
