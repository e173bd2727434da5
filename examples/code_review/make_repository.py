"""Makes `repository.bundle`, the history that the code review reads: `python -m examples.code_review.make_repository`.

Authors and dates are fixed, so the commits have the same hashes wherever it runs.
"""

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from examples.code_review.git import git
from examples.code_review.repository import BUNDLE

ADA, MEI = "Ada Okafor <ada@parcels.example>", "Mei Lindqvist <mei@parcels.example>"


@dataclass(frozen=True)
class Change:
    """One commit: whole files, and replacements in files that exist."""

    title: str
    author: str
    date: str
    files: dict[str, str]
    edits: tuple[tuple[str, str, str], ...] = ()


CHANGES = (
    Change(
        "Look up the zone of a postcode",
        ADA,
        "2024-03-04T09:12:00+01:00",
        {
            "README.md": "# parcels\n\nPrices and labels for parcels.\n",
            "parcels/__init__.py": "",
            "parcels/zones.py": '''"""Delivery zones."""

ZONES = {"1": "city", "2": "region", "3": "region"}


def zone_of(postcode: str) -> str:
    """The zone of a postcode; far away unless it is listed."""
    return ZONES.get(postcode[:1], "far")
''',
        },
    ),
    Change(
        "Price a parcel by weight and zone",
        MEI,
        "2024-03-04T15:40:00+01:00",
        {
            "parcels/pricing.py": '''"""Prices in cents."""

from parcels.zones import zone_of

BASE = {"city": 390, "region": 490, "far": 690}


def price(postcode: str, grams: int) -> int:
    """What it costs to send a parcel."""
    return BASE[zone_of(postcode)] + 25 * (grams // 500)
''',
        },
    ),
    Change(
        "Read price overrides from a file",
        ADA,
        "2024-03-05T10:05:00+01:00",
        {
            "parcels/overrides.py": '''"""Prices that a customer has agreed."""

import json
import os
from pathlib import Path


def read_overrides(path: Path) -> dict[str, int]:
    """Prices by zone."""
    return json.loads(path.read_text())
''',
        },
    ),
    Change(
        "Test the prices of the three zones",
        MEI,
        "2024-03-05T16:22:00+01:00",
        {
            "tests/test_pricing.py": """from parcels.pricing import price


def test_each_zone_has_its_price():
    assert [price(code, 400) for code in ("10115", "20095", "80331")] == [390, 490, 690]


def test_half_a_kilogram_costs_extra():
    assert price("10115", 500) == 415
""",
        },
    ),
    Change(
        "Collect surcharges of a shipment",
        ADA,
        "2024-03-06T11:31:00+01:00",
        {},
        (
            (
                "parcels/pricing.py",
                "    return BASE[zone_of(postcode)] + 25 * (grams // 500)\n",
                '''    return BASE[zone_of(postcode)] + 25 * (grams // 500)


def with_surcharges(cents: int, surcharges: list[int] = []) -> int:
    """A price with everything that comes on top."""
    surcharges.append(30)
    return cents + sum(surcharges)
''',
            ),
        ),
    ),
    Change(
        "Print labels",
        MEI,
        "2024-03-07T09:48:00+01:00",
        {
            "parcels/labels.py": '''"""Labels for the printer."""

from parcels.zones import zone_of


def label(name: str, postcode: str) -> str:
    """The text of a label, one line an entry."""
    zone = zone_of(postcode)
    return "\\n".join([name, postcode, zone_name.upper()])
''',
        },
    ),
    Change(
        "Say how prices are made",
        ADA,
        "2024-03-07T14:10:00+01:00",
        {"README.md": "# parcels\n\nPrices and labels for parcels. A price is a base by zone plus 25 cents per half kilogram.\n"},
    ),
    Change(
        "Round weights up",
        MEI,
        "2024-03-08T10:27:00+01:00",
        {},
        (
            ("parcels/pricing.py", "25 * (grams // 500)", "25 * (-(-grams // 500) - 1)"),
            ("tests/test_pricing.py", 'price("10115", 500) == 415', 'price("10115", 501) == 415'),
        ),
    ),
    Change(
        "Go on when tracking is down",
        ADA,
        "2024-03-11T13:55:00+01:00",
        {
            "parcels/tracking.py": '''"""Where a parcel is."""

from collections.abc import Callable


def last_seen(fetch: Callable[[str], dict[str, str]], number: str) -> str:
    """The last known place of a parcel."""
    try:
        answer = fetch(number)
        status = answer["status"]
        return answer["place"]
    except:
        return "unknown"
''',
        },
    ),
    Change(
        "Use the right name on labels",
        MEI,
        "2024-03-12T09:03:00+01:00",
        {},
        (("parcels/labels.py", "zone_name.upper()", "zone.upper()"), ("parcels/overrides.py", "import os\n", "")),
    ),
    Change(
        "Let a shipment have no overrides",
        ADA,
        "2024-03-13T17:19:00+01:00",
        {},
        (
            (
                "parcels/overrides.py",
                '''def read_overrides(path: Path) -> dict[str, int]:
    """Prices by zone."""
    return''',
                '''def read_overrides(path: Path | None) -> dict[str, int]:
    """Prices by zone."""
    if path == None:
        return {}
    return''',
            ),
        ),
    ),
)


def make_repository(directory: Path) -> list[str]:
    """Write the history into a directory and return the commits, oldest first."""
    git(directory, "init", "--quiet", "--initial-branch=main", ".")
    commits: list[str] = []
    for change in CHANGES:
        for name, text in change.files.items():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).write_text(text)
        for name, old, new in change.edits:
            text = (directory / name).read_text()
            if text.count(old) != 1:
                raise ValueError(f"{change.title}: {name} holds {text.count(old)} times: {old}")
            (directory / name).write_text(text.replace(old, new))
        name, _, mail = change.author.rstrip(">").partition(" <")
        git(directory, "add", "--all")
        values = {"NAME": name, "EMAIL": mail, "DATE": change.date}
        signature = {f"GIT_{role}_{part}": value for role in ("AUTHOR", "COMMITTER") for part, value in values.items()}
        git(directory, "commit", "--quiet", "--no-gpg-sign", "--no-verify", "-m", change.title, environment=signature)
        commits.append(git(directory, "rev-parse", "HEAD").strip())
    return commits


def main() -> None:
    """Write the bundle."""
    with tempfile.TemporaryDirectory() as directory:
        commits = make_repository(Path(directory))
        git(Path(directory), "bundle", "create", "--quiet", str(BUNDLE), "HEAD", "main")
    print(f"{BUNDLE}: {len(commits)} commits, the last is {commits[-1]}", file=sys.stderr)


if __name__ == "__main__":
    main()
