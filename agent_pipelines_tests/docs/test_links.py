"""Links of the pages lead somewhere, every page can be reached, and no page speaks of the machine it was written on."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_pipelines_tests.docs.markdown import ROOT, name, pages

_LINK = re.compile(r"(?<!!)\[[^\]]*\]\((?P<target>[^)\s]+)\)")
_FENCED = re.compile(r"^ *```.*?^ *```", re.DOTALL | re.MULTILINE)
_CODE = re.compile(r"`[^`\n]*`")
# Directories that exist on the machine of whoever writes, not on that of whoever reads.
_OF_A_MACHINE = re.compile(r"(?<![\w.:/-])/(?:root|home|work|tmp|Users|mnt|var|srv|builds)(?:/|\b)")

OTHERS = [ROOT / "AGENTS.md", ROOT / "CHANGELOG.md", ROOT / "deploy" / "README.md", ROOT / "examples" / "README.md"]
ALL = [*pages(), *sorted((ROOT / "docs" / "design").glob("*.md")), *OTHERS]


def _links(page: Path) -> Iterator[str]:
    text = _CODE.sub("", _FENCED.sub("", page.read_text(encoding="utf-8")))
    yield from (found["target"] for found in _LINK.finditer(text))


def _anchors(page: Path) -> set[str]:
    text = _FENCED.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ +(.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", ALL, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in _links(page):
        if re.match(r"https?:|mailto:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{name(page)} links to {target}, which is not there"
        assert file.is_relative_to(ROOT), f"{name(page)} links to {target}, which is outside of the project"
        if anchor:
            assert anchor in _anchors(file), f"{name(page)} links to {target}: there is no such heading"


def test_every_page_can_be_reached_from_the_first_one() -> None:
    seen: set[Path] = set()
    waiting = [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in seen:
            continue
        seen.add(page)
        for target in _links(page):
            if re.match(r"https?:|mailto:", target) or not (path := target.partition("#")[0]):
                continue
            file = (page.parent / path).resolve()
            waiting += [file] if file.suffix == ".md" else []
    assert {name(page) for page in pages()} - {name(page) for page in seen} == set()


@pytest.mark.parametrize("page", ALL, ids=name)
def test_no_page_names_a_place_of_one_machine(page: Path) -> None:
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        assert not _OF_A_MACHINE.search(line), f"{name(page)}:{number} names a place of one machine: {line}"
