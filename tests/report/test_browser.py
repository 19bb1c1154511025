"""The page in a real browser: nothing goes wrong, nothing is fetched, and it can be read."""

import pytest

from maskaq_jax.report import page
from tests.report import browser, made_up

PROGRAM = browser.find()
pytestmark = pytest.mark.skipif(
    PROGRAM is None, reason=f"there is no browser, {' or '.join(browser.NAMES)}"
)

# The contrast of each element's own text with what is behind it, at least.
_CONTRAST = """
(() => {
  const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const luminance = (colour) => {
    const [r, g, b] = channels(colour).map((value) => {
      const share = value / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const found = getComputedStyle(at).backgroundColor;
      if (channels(found).length === 3) return found;
    }
    throw new Error("nothing is behind " + element.tagName);
  };
  let least = 21;
  for (const element of document.body.querySelectorAll("*")) {
    const has = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!has || !element.checkVisibility()) continue;
    const style = getComputedStyle(element);
    const ink = element.closest("svg") ? style.fill : style.color;
    const pair = [luminance(ink), luminance(behind(element))].sort();
    least = Math.min(least, (pair[1] + 0.05) / (pair[0] + 0.05));
  }
  return least;
})()
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(page.render(made_up.contents()), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def tab(path, tmp_path_factory):
    with browser.new_page(PROGRAM, tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_the_page_is_whole_at_any_width_in_any_light(tab, path, tmp_path, width, scheme):
    tab.open(path, width, scheme=scheme)
    assert tab.told("Log.entryAdded") == []
    assert tab.told("Runtime.exceptionThrown") == []
    assert tab.told("Runtime.consoleAPICalled") == []
    assert tab.told("Network.loadingFailed") == []
    addresses = {
        one["request"]["url"].split(":")[0] for one in tab.told("Network.requestWillBeSent")
    }
    assert addresses == {"file", "data"}
    assert tab.value("document.documentElement.scrollWidth") <= width
    assert tab.value("document.querySelector('main').getBoundingClientRect().width") > 0.8 * min(
        width, 1000
    )
    assert tab.value(_CONTRAST) > 4.5
    assert tab.value("document.body.innerText").count("86.25") == 1
    tab.screenshot(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 50_000


def test_charts_follow_the_light(tab, path):
    colours = []
    for scheme in ("light", "dark"):
        tab.open(path, scheme=scheme)
        colours.append(
            tab.value(
                "[...document.querySelectorAll('svg.chart text, svg.chart path')]"
                ".map((one) => getComputedStyle(one).fill + getComputedStyle(one).stroke).join()"
            )
        )
    assert colours[0] != colours[1]


def test_letters_of_charts_can_be_read_on_a_phone(tab, path):
    tab.open(path, width=360)
    smallest = tab.value(
        "Math.min(...[...document.querySelectorAll('svg.chart text')]"
        ".filter((one) => one.checkVisibility())"
        ".map((one) => one.getBoundingClientRect()).map((box) => Math.max(box.height, box.width)))"
    )
    assert smallest > 7


def test_everything_is_reached_by_keyboard(tab, path):
    tab.open(path)
    told = []
    for _ in range(60):
        tab.press("Tab")
        told.append(tab.value("document.activeElement.tagName + document.activeElement.className"))
    assert told[0] == "Askip"
    assert {"A", "SUMMARY", "DIVscroll", "PRE"} <= set(told)
    tab.open(path)
    tab.press("Tab")
    assert tab.value("document.querySelector('.skip').getBoundingClientRect().top") >= 0
    tab.press("Enter")
    assert tab.value("location.hash") == "#main"
