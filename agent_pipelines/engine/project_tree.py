"""The components of a dg project."""

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import dagster as dg
from dagster._utils.warnings import suppress_dagster_warnings

from agent_pipelines.core.errors import DefinitionError

Wanted = TypeVar("Wanted", bound=dg.Component)


class ProjectTree(dg.ComponentTree):
    """Dagster's tree of a project's components, without the walk over all of them for each one of them.

    Dagster looks up each component by listing the whole tree, which takes seconds for a thousand.
    """

    @cached_property
    def _listed(self) -> dict[Any, Any]:
        return super()._component_decl_tree()

    def _component_decl_tree(self) -> dict[Any, Any]:
        return self._listed

    def reload_with_state(self, changed_state_keys: Iterable[str]) -> dg.Definitions:
        """Build the definitions again after the state of some components has changed."""
        self.__dict__.pop("_listed", None)
        return super().reload_with_state(changed_state_keys)

    @suppress_dagster_warnings
    def build_all(self) -> dg.Definitions:
        """The definitions of all components. Dagster's own loader uses parts of Dagster that are in preview."""
        return self.build_defs()

    @suppress_dagster_warnings
    def load_all(self, kind: type[Wanted]) -> tuple[Sequence[tuple[Wanted, Path]], Sequence[DefinitionError]]:
        """All components of a kind, each with its file or folder, and what is wrong with those that cannot be loaded."""
        loaded: list[tuple[Wanted, Path]] = []
        problems: list[DefinitionError] = []
        for place, declaration in self._component_decl_tree().items():
            if not _is_of(declaration.component_type, kind):
                continue
            try:
                component = self.load_component(place)
            except Exception as error:
                problem = _definition_error(error)
                if problem is None:
                    raise
                problems.append(problem)
            else:
                if isinstance(component, kind):
                    loaded.append((component, place.file_path))
        return loaded, problems


def _is_of(declared: object, kind: type[dg.Component]) -> bool:
    # The loader of a module with postponed annotations says the name of the type.
    if isinstance(declared, str):
        return declared.rpartition(".")[2] == kind.__name__
    return isinstance(declared, type) and issubclass(declared, kind)


def _definition_error(error: BaseException | None) -> DefinitionError | None:
    while error is not None and not isinstance(error, DefinitionError):
        error = error.__cause__
    return error
