"""What the README and docs/ show is there, and shows as what it is meant to be."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
_TABLE_RULE = re.compile(r"\|(\s*:?-+:?\s*\|)+")


def _id(page):
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_links_lead_to_files_that_are_there(page):
    targets = re.findall(r"\]\(([^)#\s]+)", page.read_text())
    files = [target for target in targets if "://" not in target]
    assert [name for name in files if not (page.parent / name).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_tables_have_a_line_for_each_row(page):
    lines = page.read_text().splitlines()
    rules = [line for line in lines if _TABLE_RULE.search(line)]
    assert [line for line in rules if not _TABLE_RULE.fullmatch(line.strip())] == []
    for number, line in enumerate(lines):
        if _TABLE_RULE.fullmatch(line.strip()):
            assert lines[number - 1].count("|") == line.count("|"), lines[number - 1]
