"""Tests of what the agents answer, beyond its form."""

from typing import Any

from agent_pipelines.core.invocation import Invocation

Output = dict[str, Any]


def escalates_what_is_critical(output: Output, invocation: Invocation) -> str | None:
    """A night is escalated if and only if one of its findings is critical."""
    critical = [finding["key"] for finding in output["findings"] if finding["severity"] == "critical"]
    if output["escalate"] != bool(critical):
        return f"`escalate` is {output['escalate']}, critical are: {', '.join(critical) or 'none'}"
    return None


def balanced_without_mismatch(output: Output, invocation: Invocation) -> str | None:
    """An hour is balanced if and only if nothing is left over; then both sides have the same total."""
    if output["balanced"] != (not output["mismatches"]):
        return f"`balanced` is {output['balanced']} with {len(output['mismatches'])} mismatches"
    if output["balanced"] and output["total_cents"] != output["feed_total_cents"]:
        return f"balanced, but the ledger holds {output['total_cents']} and the bank {output['feed_total_cents']} cents"
    return None


def positions_add_up(output: Output, invocation: Invocation) -> str | None:
    """The net positions add up to the total of the hour."""
    total = sum(position["net_cents"] for position in output["positions"])
    return None if total == output["total_cents"] else f"the positions add up to {total}, not {output['total_cents']} cents"


def verdict_fits_findings(output: Output, invocation: Invocation) -> str | None:
    """A change is asked for if and only if something was found."""
    if (output["verdict"] == "request_changes") != bool(output["findings"]):
        return f"`verdict` is {output['verdict']} with {len(output['findings'])} findings"
    return None


def one_mail_went_out(output: Output, invocation: Invocation) -> str | None:
    """The mail was handed to the server under a name of its own."""
    return None if output["sent"] and output["message_id"].startswith("<") else "no mail was sent"
