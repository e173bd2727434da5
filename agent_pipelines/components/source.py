"""Where a declaration was written."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import dagster as dg

from agent_pipelines.core.errors import DefinitionError
from agent_pipelines.core.refusals import Way, field_of, way_of


@dataclass(frozen=True)
class Source:
    """The file of a declaration, for errors that name file, line and field.

    `lines` are the positions that Dagster has read from a YAML document; they have no public type. `elsewhere` maps fields
    to the files that they were read from.
    """

    file: Path | None = None
    root: Path | None = None
    lines: Any = None
    elsewhere: Mapping[str, Path] = field(default_factory=dict[str, Path])

    @classmethod
    def of(cls, context: dg.ResolutionContext) -> "Source":
        """The file that a component is loaded from."""
        loading = dg.ComponentLoadContext.from_resolution_context(context)
        lines = context.source_position_tree
        if lines is not None:
            return cls(Path(lines.position.filename), loading.project_root, lines)
        # A component that was made in Dagster's web interface has no file.
        folder: Path | None = getattr(loading.component_loc, "file_path", None)
        return cls(None if folder is None else folder / "defs.yaml", loading.project_root)

    @property
    def named_by_folder(self) -> dict[str, str]:
        """The name that a declaration has which does not say its own."""
        return {} if self.file is None else {"name": self.file.parent.name}

    def reading(self, name: str, file: Path) -> "Source":
        """The same source after a field has been read from another file."""
        return replace(self, elsewhere={**self.elsewhere, name: file})

    def problem(self, problem: str, at: Way | str = (), fix: str | None = None) -> DefinitionError:
        """An error about a field of this declaration."""
        way = way_of(at) if isinstance(at, str) else tuple(at)
        return DefinitionError(problem, field=field_of(way) or None, file=self.where(way), fix=fix)

    def where(self, way: Way = ()) -> str | None:
        """The file, with the line of a field where it is known; None if the declaration has no file."""
        for length in range(len(way), 0, -1):
            other = self.elsewhere.get(field_of(way[:length]))
            if other is not None:
                return self._shown(other)
        if self.file is None or self.lines is None:
            return None if self.file is None else self._shown(self.file)
        position, _ = self.lines.lookup_closest_and_path(("attributes", *way), None)
        return f"{self._shown(self.file)}:{position.start.line}"

    def _shown(self, file: Path) -> str:
        return str(file.relative_to(self.root)) if self.root is not None and file.is_relative_to(self.root) else str(file)
