"""What the Markdown pages show is there, and shows as what it is meant to be."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
_FOLDERS = ("benchmarks", "colabs", "configs", "docs", "maskaq_jax", "tests")
PAGES = [
    *ROOT.glob("*.md"),
    *(page for folder in _FOLDERS for page in sorted((ROOT / folder).rglob("*.md"))),
]
_TABLE_RULE = re.compile(r"\|(\s*:?-+:?\s*\|)+")


def _id(page):
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_links_and_paths_lead_to_what_is_there(page):
    text = page.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []
    paths = set(re.findall(rf"`((?:{'|'.join(_FOLDERS)})/[\w./]*)", text))
    assert [path for path in paths if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_tables_have_a_line_for_each_row(page):
    lines = [line.strip() for line in page.read_text(encoding="utf-8").splitlines()]
    for number, line in enumerate(lines):
        if not _TABLE_RULE.search(line):
            continue
        assert _TABLE_RULE.fullmatch(line), line
        rest = lines[number:]
        end = rest.index("") if "" in rest else len(rest)
        for row in (lines[number - 1], *rest[:end]):
            assert row.startswith("|"), row
            assert row.count("|") == line.count("|"), row


def test_the_paper_is_what_one_is_asked_to_cite():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    cited = " ".join((ROOT / "CITATION.cff").read_text(encoding="utf-8").split())
    _, asked, paper = cited.partition("preferred-citation: ")
    assert asked
    for field in ("title", "booktitle", "year"):
        assert re.search(rf" {field} = {{([^}}]*)}}", readme)[1] in paper
    authors = re.search(r"author = {([^}]*)}", readme)[1].split(" and ")
    assert re.findall(r"family-names: (\w+)", paper) == authors
