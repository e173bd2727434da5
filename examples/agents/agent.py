"""What every example agent is."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from examples.agents.facts import Facts
from examples.agents.toolbox import Json, Toolbox

FactsT = TypeVar("FactsT", bound=Facts)


class Agent(ABC, Generic[FactsT]):
    """A program that reads facts, uses its tools and answers.

    Doing the same work twice leaves the same files and gives the same answer, so that it can be tried again. The
    tools are apart from the rules: a model can hold them instead (`model.py`).
    """

    name: ClassVar[str]
    instructions: ClassVar[str]
    """What a model is told that works in place of the rules."""
    facts_type: ClassVar[type[Facts]]

    def __init__(self, home: Path) -> None:
        self.home = home

    @abstractmethod
    def tools(self) -> Sequence[Callable[..., Json]]:
        """The functions that do the work."""

    @abstractmethod
    def work(self, facts: FactsT, tools: Toolbox) -> str | dict[str, Any]:
        """Do the work; an answer that is not text is sent as JSON."""
