import asyncio
from types import SimpleNamespace

from agent_pipelines import Invocation
from agent_pipelines.core.invocation import Origin
from examples.carriers.review import judge, months, worst


def invocation(item: dict[str, object]) -> Invocation:
    return Invocation.model_validate(
        {
            "task": "carrier_review",
            "spec_hash": "h",
            "trigger": "on_demand",
            "origin": Origin.ON_DEMAND,
            "occurrence": "r",
            "due_at": 0,
            "logical_at": 0,
            "item": "x",
            "item_value": item,
        }
    )


def test_every_month_of_every_airline_is_judged_and_the_worst_is_named() -> None:
    items = list(months())
    assert len({(item["carrier"], item["month"]) for item in items}) == len(items) > 150
    results = [SimpleNamespace(value=asyncio.run(judge(invocation(item)))) for item in items]
    found = worst(iter(results))
    assert found["months"] == len(items)
    assert found["worst"] == max(found["bad_months"], key=lambda carrier: len(found["bad_months"][carrier]))
