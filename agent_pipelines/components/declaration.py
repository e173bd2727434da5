"""What every component of ours is: a model that is read from YAML, and knows where it stands."""

from pathlib import Path
from typing import ClassVar, Self

import dagster as dg
from pydantic import BaseModel, PrivateAttr

from agent_pipelines.components.reading import Attributes
from agent_pipelines.components.source import Source


class Declaration(dg.Component, dg.Resolvable, BaseModel):
    """A component whose attributes are judged by its own model, with errors that name file, line and field."""

    attributes: ClassVar[type[Attributes]]

    _source: Source = PrivateAttr(default=Source())

    @property
    def source(self) -> Source:
        """Where it is declared."""
        return self._source

    def declared_in(self, file: Path, root: Path) -> None:
        """Say where it is declared, for one made by plain Python code."""
        if self._source.file is None:
            self._source = Source(file, root)

    @classmethod
    def model(cls) -> type[BaseModel]:
        return cls.attributes

    @classmethod
    def load(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext) -> Self:
        return super().load(attributes or cls.attributes(), context)
