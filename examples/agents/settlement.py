"""The settlement of one hour that was found balanced."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import AwareDatetime

from examples.agents.agent import Agent
from examples.agents.facts import BadFactsError, Facts
from examples.agents.hour import HourFacts, written
from examples.agents.records import Records
from examples.agents.toolbox import Json, Toolbox, ToolError
from examples.data.bank import ledger


class SettlementFacts(HourFacts):
    """What the settlement is told by the reconciliation."""

    balanced: bool
    total_cents: int


class Settlement(Agent[SettlementFacts]):
    """Nets the payments of an hour by counterparty and writes one instruction."""

    name: ClassVar[str] = "settlement"
    facts_type: ClassVar[type[Facts]] = SettlementFacts
    instructions: ClassVar[str] = (
        "You settle one hour of payments that was found balanced; refuse one that was not. Compute the net positions, "
        "compare their sum with `total_cents`, and write the settlement instruction. Positions above zero are received."
    )

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self._settlements = Records(home / "settlements")

    def tools(self) -> Sequence[Callable[..., Json]]:
        return (net_positions, self.write_instruction)

    def write_instruction(self, hour: AwareDatetime, positions: list[dict[str, Any]]) -> Json:
        """Write the settlement instruction of an hour, once; a different second one is refused."""
        key = f"settlement {written(hour)}"
        instruction = self._settlements.path(key).stem
        record = {"instruction": instruction, "hour": written(hour), "positions": positions}
        new = self._settlements.create(key, record)
        if not new and self._settlements.read(key) != record:
            raise ToolError(f"write_instruction: {written(hour)} was settled with other positions; a person must look at it")
        return {"instruction": instruction, "new": new}

    def work(self, facts: SettlementFacts, tools: Toolbox) -> dict[str, Any]:
        hour = written(facts.end())
        if not facts.balanced:
            raise BadFactsError(f"{hour} is not balanced; it cannot be settled before its cases are closed")
        net = tools.call("net_positions", hour=hour)
        if net["total_cents"] != facts.total_cents:
            raise BadFactsError(f"`total_cents`: reconciled were {facts.total_cents}, the ledger now holds {net['total_cents']}")
        written_ = tools.call("write_instruction", hour=hour, positions=net["positions"])
        return {
            "hour": hour,
            "positions": net["positions"],
            "total_cents": net["total_cents"],
            "instruction": written_["instruction"],
            "summary": f"{hour}: settled with {len(net['positions'])} counterparties.",
        }


def net_positions(hour: AwareDatetime) -> Json:
    """Add up the ledger of an hour by counterparty."""
    try:
        frame = ledger(hour)
    except ValueError as error:
        raise ToolError(str(error)) from None
    grouped = frame.groupby("counterparty")["amount_cents"].agg(["sum", "size"])
    positions = [
        {"counterparty": str(name), "net_cents": int(row["sum"]), "payments": int(row["size"])}
        for name, row in grouped.iterrows()
    ]
    return {"positions": positions, "total_cents": int(frame["amount_cents"].sum())}
