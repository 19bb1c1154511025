import dataclasses
import html
import itertools
import re
from html.parser import HTMLParser

import pytest

from maskaq_jax.report import page
from maskaq_jax.report.contents import Entry, Setting
from maskaq_jax.report.markup import VOID
from tests.report import made_up

HOSTILE = "<script>alert('1')</script><img src=\"https://example.com/x\" onerror=alert(2)>&amp;"


class _Reader(HTMLParser):
    """Elements with their attributes, and the text; every element is closed."""

    def __init__(self, written):
        super().__init__()
        self.elements, self._open, self.text = [], [], ""
        self.feed(written)
        assert self._open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if not self._open or self._open[-1] != "style":
            self.text += data + " "

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def shown():
    return _Reader(page.render(made_up.contents()))


def test_what_a_run_tells_is_there(shown):
    for told in (
        *(
            "91.16",
            "68.50",
            "86.25",
            "\N{MINUS SIGN}4.91 points",
            "9,990 images",
            "10 more could not be read",
        ),
        *("The trained model was kept", "2 min 04 s in all", "W3A4"),
        *("blocks_3.mlp.fc2=3x8", "model.onnx", "the model as integers", "14% of it"),
        *("0.0005 (preset)", "200 (default)", "black 0.80"),
        "python -m maskaq_jax.main --config=configs/vit_fashion.py:w=3,a=4 --workdir=runs/made_up",
    ):
        assert told in shown.text, told


def test_sections_are_reached_by_keyboard_and_by_ear(shown):
    (nav,), (main,) = shown.all("nav"), shown.all("main")
    assert nav["aria-label"]
    links = [link["href"] for link in shown.all("a")]
    assert links[0] == f"#{main['id']}"
    sections = {f"#{section['id']}" for section in shown.all("section")}
    assert set(links[1:]) == sections
    ids = [attributes["id"] for _, attributes in shown.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert all(section["aria-labelledby"] in ids for section in shown.all("section"))
    levels = [int(tag[1]) for tag, _ in shown.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert all(picture["aria-label"] for picture in shown.all("svg"))
    assert all(picture["role"] == "img" for picture in shown.all("svg"))


def test_a_page_fetches_nothing_and_runs_nothing():
    written = page.render(made_up.contents(num_blocks=1))
    assert not re.search(r"https?://|<script|<link|<iframe|@import|url\((?!#)", written)
    assert "default-src 'none'" in html.unescape(written)


def test_no_text_of_a_config_or_file_becomes_part_of_the_page():
    losses = dataclasses.replace(made_up.contents().sensitivity, suggested_rules=HOSTILE, losses=[])
    distances = made_up.RESULTS["distances"]
    hostile = dict.fromkeys(("method", "evaluation", "device", "rules", "kept"), HOSTILE)
    contents = made_up.contents(
        **dict.fromkeys(("workdir", "model", "finished", "command", "preset", "version"), HOSTILE),
        results=made_up.RESULTS | hostile | {"distances": distances, "class_order": HOSTILE},
        metrics=[{"phase": "finetuning", "step": 0, HOSTILE: 1.0}],
        settings=[Setting(HOSTILE, HOSTILE, HOSTILE, False)],
        layers=[dataclasses.replace(layer, name=HOSTILE) for layer in made_up.layers()[:1]],
        sensitivity=losses,
        entries=[Entry(HOSTILE, 1, 1)],
        notes=[HOSTILE],
    )
    shown = _Reader(page.render(contents))
    assert {name for name, _ in shown.elements} & {"script", "img"} == set()
    assert not any(name.startswith("on") for _, own in shown.elements for name in own)
    assert shown.text.count("alert('1')") >= 15


def test_terms_of_a_point_or_two_are_numbers_and_others_lines(shown):
    labels = {picture["aria-label"] for picture in shown.all("svg")}
    assert "distillation of finetuning by epoch: 2 to 0.002" in labels
    assert not any("classes of synthesis" in label for label in labels)
    assert "classes" in shown.text


def test_a_run_without_labels_says_what_it_can():
    shown = _Reader(page.render(made_up.plain(results=made_up.UNLABELLED)))
    assert "93.75" in shown.text
    assert "0.9876" in shown.text
    assert "compared on 320 samples" in shown.text
    assert "not how often they are right" in shown.text
    assert "calibrated only" not in shown.text


def test_figures_of_other_tasks_are_told(shown):
    assert "Average precision" not in shown.text
    metrics = {
        "pixel_accuracy": {"fp": 80.0, "calibrated": 70.25, "quantized": 77.125},
        "miou": {"fp": 41.5, "calibrated": 30.0, "quantized": 39.75},
    }
    results = {name: value for name, value in made_up.UNLABELLED.items() if "_top1" not in name}
    results |= {"metrics": metrics, "evaluation": "scenes", "num_evaluated": 200, "box_iou": 61.5}
    text = _Reader(page.render(made_up.plain(results=results))).text
    assert "Mean IoU on 200 images of scenes" in text
    assert f"{'39.75'} % \N{MINUS SIGN}1.75 points".replace(" ", "") in text.replace(" ", "")
    assert "77.12" in text
    assert "61.50" in text


def test_a_run_that_kept_the_calibrated_model_says_so():
    results = made_up.RESULTS | {"kept": "calibrated", "retreats": 2}
    text = _Reader(page.render(made_up.plain(results=results))).text
    assert "the calibrated one was kept" in text
    assert "astray and back 2 times" in text


def test_what_there_is_nothing_of_is_left_out():
    results = {
        name: value
        for name, value in made_up.RESULTS.items()
        if name not in ("kept", "retreats", "distances")
    }
    contents = made_up.contents(
        results=results | {"epochs": 0, "seconds": {}},
        **{"metrics": [], "looks": None, "sensitivity": None, "refresh_epochs": []},
        **{"command": "", "notes": ["samples are not shown: weights.pth is gone"]},
    )
    shown = _Reader(page.render(contents))
    ids = {section["id"] for section in shown.all("section")}
    assert ids == {"accuracy", "layers", "sensitivity", "files", "settings", "commands"}
    assert "weights.pth is gone" in shown.text
    assert "python -m maskaq_jax.sensitivity --workdir=runs/made_up" in shown.text
    assert "was not written down" in shown.text


def test_a_call_from_python_is_shown_as_one():
    call = "maskaq_jax.quantize('configs/vit_fashion.py', w=3)"
    text = _Reader(page.render(made_up.plain(command=call))).text
    assert call in text
    assert f"{call} --workdir" not in text
