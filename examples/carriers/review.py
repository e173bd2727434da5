"""The items, the agent that looks at one, and the function that makes one result of all."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from agent_pipelines import Invocation
from examples.data.flights import flights

_TOO_MANY = 0.04  # share of cancelled flights that is worth a word


def months() -> Iterator[dict[str, Any]]:
    """Each airline's months in the data, as the items of a batch."""
    for (carrier, month), group in flights().groupby(["carrier", "month"]):
        cancelled = int(group["dep_time"].isna().sum())
        yield {"carrier": str(carrier), "month": int(month), "flights": len(group), "cancelled": cancelled}


async def judge(invocation: Invocation) -> dict[str, Any]:
    """Say whether an airline has cancelled too many flights in a month."""
    item = invocation.item_value
    assert isinstance(item, dict)
    share = float(str(item["cancelled"])) / float(str(item["flights"]))
    return {"carrier": item["carrier"], "month": item["month"], "share": round(share, 4), "is_bad": share > _TOO_MANY}


def worst(results: Iterator[Any]) -> dict[str, Any]:
    """Which airline had the most bad months, from results that come one by one."""
    bad: dict[str, list[int]] = defaultdict(list)
    months_seen = 0
    for result in results:
        months_seen += 1
        if result.value["is_bad"]:
            bad[result.value["carrier"]].append(result.value["month"])
    most = max(bad, key=lambda carrier: len(bad[carrier]), default=None)
    return {"months": months_seen, "bad_months": dict(sorted(bad.items())), "worst": most}
