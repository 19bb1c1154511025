"""The site of `docs/`: what it generates, what it quotes, and that it builds."""

import ast
import dataclasses
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags

from docs import hooks
from maskaq_jax import main
from maskaq_jax.config import Config
from maskaq_jax.export import __main__ as export_main

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PACKAGE = sorted((ROOT / "maskaq_jax").rglob("*.py"))


def _fields(value, path="config"):
    for field in dataclasses.fields(value):
        inner = getattr(value, field.name)
        if dataclasses.is_dataclass(inner):
            yield from _fields(inner, f"{path}.{field.name}")
        else:
            yield f"{path}.{field.name}", inner


def test_every_config_field_is_listed_with_its_default_and_what_it_is():
    page = hooks.on_page_markdown((DOCS / "reference" / "config.md").read_text())
    rows = {}
    for group in page.split("\n## ")[1:]:
        path = group.partition("\n")[0].strip("`")
        for line in group.splitlines():
            name, *cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)][1:-1] or [""]
            rows[f"{path}.{name.strip('`')}"] = cells
    for path, default in _fields(Config()):
        values, shown, *_, about = rows[path]
        assert values, path
        assert about, path
        assert shown == ("empty" if default == "" else f"`{default}`"), path


def test_presets_are_shown_where_they_differ():
    tables = hooks.config_tables()
    assert re.search(
        r"`epochs` .*\| `200` \| ImageNet `16`, detectors and segmenters `0` \|", tables
    )
    assert re.search(r"`contrast` .*\| `0.0` \| `1.0` \|", tables)
    assert "number, not negative" in tables


def test_every_flag_is_listed(capsys):
    page = (DOCS / "reference" / "command_line.md").read_text()
    own = {flag.name for flag in flags.FLAGS.get_key_flags_for_module(main)}
    with pytest.raises(SystemExit):
        export_main.main(["--help"])
    exported = set(re.findall(r"(?<!\S)--[a-z_]+", capsys.readouterr().out))
    assert "--workdir" in exported
    shown = {f"--{name}" for name in own} | exported - {"--help"}
    assert [flag for flag in shown if f"`{flag}" not in page] == []


def _literals():
    """Every text of the package's code, `…` where a value is filled in."""
    for path in PACKAGE:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (
                    part.value if isinstance(part, ast.Constant) else "…" for part in node.values
                )
                yield "".join(parts)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_messages_of_troubleshooting_are_those_of_the_package():
    page = (DOCS / "how-to" / "troubleshooting.md").read_text(encoding="utf-8")
    messages = re.findall(r"^### `(.*)`$", page, re.M)
    assert len(messages) > 50
    text = "\n".join(_literals())
    assert [message for message in messages if message not in text] == []


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


@pytest.mark.skipif(not importlib.util.find_spec("mkdocs"), reason="needs the docs extra")
def test_the_site_builds_without_a_warning_and_fetches_nothing(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", f"--site-dir={tmp_path}"]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    pages = [path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.html")]
    assert len(pages) >= len(list(DOCS.rglob("*.md")))
    fetched = re.compile(
        r"<(?:script|img|iframe)[^>]*src=\"?https?:|<link[^>]*stylesheet[^>]*https?:"
    )
    assert [found for page in pages for found in fetched.findall(page)] == []
    config = (tmp_path / "reference" / "config" / "index.html").read_text(encoding="utf-8")
    assert "checkpoint_seconds" in config
    api = (tmp_path / "reference" / "api" / "index.html").read_text(encoding="utf-8")
    assert "quantized.logits" in api
    assert not (tmp_path / "hooks.py").exists()
