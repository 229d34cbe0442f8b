"""The HTML report in a browser: quiet, alone, blurred until asked, and fit for a phone."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import CHROMIUM, Browser, Page
from ci_examples import all_verdicts
from report_examples import make_data

from safediff.report.data import Grid, ReportData
from safediff.report.html import render_html

pytestmark = pytest.mark.skipif(
    CHROMIUM is None,
    reason="the page is looked at in a real browser, and this machine has no Chromium: apt-get "
    "install chromium (docs/ci.md)",
)

PHONE_PX = 360
VEILS = "[...document.querySelectorAll('.veil')]"
BLURRED = f"{VEILS}.map(v => getComputedStyle(v.firstChild).filter.includes('blur('))"


def failing() -> ReportData:
    """All verdicts, with names as long as policies have them."""
    data = make_data()
    caption = "a photograph of an extraordinarily long prompt, watercolour style (seed 12)"
    rows = tuple((caption, pictures * 2) for _, pictures in data.grids[0].rows)
    columns = ("base", "teacher", "student", "onnx engine")
    wide = Grid(title="Erased concepts", note="The first 2.", columns=columns, rows=rows)
    return make_data(reports=all_verdicts(), grids=(wide,))


PAGES = {"passing": render_html(make_data()), "failing": render_html(failing())}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as running:
        yield running


@pytest.fixture(params=PAGES)
def page(browser: Browser, request: pytest.FixtureRequest, tmp_path: Path) -> Page:
    return shown(browser, tmp_path, PAGES[request.param])


def shown(browser: Browser, folder: Path, text: str, width: int = 1200) -> Page:
    path = folder / "report.html"
    path.write_text(text, encoding="utf-8")
    page = browser.page()
    page.width(width)
    page.open(path)
    return page


def test_the_console_stays_empty_and_nothing_is_asked_for(page: Page, tmp_path: Path) -> None:
    page.click(f"{VEILS}[0]")
    page.click("document.getElementById('reveal')")
    page.value("document.querySelectorAll('details').forEach(d => { d.open = true })")
    assert page.value("document.querySelector('h1').textContent").startswith("Policy")
    assert page.complaints() == []
    assert page.requests() == [(tmp_path / "report.html").as_uri()]


def test_pictures_are_there_and_blurred(page: Page) -> None:
    assert page.value(f"{VEILS}.length") >= 4
    assert set(page.value(BLURRED)) == {True}
    sizes = page.value(f"{VEILS}.map(v => v.firstChild.naturalWidth)")
    assert set(sizes) == {8}  # decoded: a broken picture has no width


def test_a_click_reveals_one_picture_and_hides_it_again(page: Page) -> None:
    page.click(f"{VEILS}[1]")
    assert page.value(BLURRED)[:3] == [True, False, True]
    page.click(f"{VEILS}[1]")
    assert set(page.value(BLURRED)) == {True}


@pytest.mark.parametrize("key", ["Enter", " "])
def test_pictures_are_reached_and_revealed_by_keyboard(page: Page, key: str) -> None:
    page.value("document.getElementById('reveal').focus()")
    for number in (0, 1):
        page.press("Tab")
        assert page.value(f"{VEILS}.indexOf(document.activeElement)") == number
        style = "getComputedStyle(document.activeElement)"
        assert page.value(f"{style}.outlineStyle + ' ' + {style}.outlineWidth") == "solid 2px"
        page.press(key)
    assert page.value(BLURRED)[:3] == [False, False, True]
    assert page.value("document.activeElement.getAttribute('aria-pressed')") == "true"
    page.press(key)
    assert page.value(BLURRED)[:3] == [False, True, True]


def test_the_keyboard_alone_gets_to_the_pictures(page: Page) -> None:
    for _ in range(200):
        page.press("Tab")
        if page.value("document.activeElement.id") == "reveal":
            break
    assert page.value("document.activeElement.id") == "reveal"
    page.press("Enter")
    assert set(page.value(BLURRED)) == {False}
    assert page.value("document.activeElement.textContent") == "Blur all pictures"


OVERFLOWING = """
[...document.querySelectorAll('body *')]
  .filter(e => e.getClientRects().length && !e.closest('thead'))
  .map(e => [e.tagName + '.' + e.getAttribute('class'), e.getBoundingClientRect().right])
  .filter(([name, right]) => right > document.documentElement.clientWidth + 0.5)
"""


@pytest.mark.parametrize("width", [PHONE_PX, 768, 1200])
def test_the_page_is_never_wider_than_the_window(page: Page, width: int) -> None:
    page.width(width)
    page.value("document.querySelectorAll('details').forEach(d => { d.open = true })")
    assert page.value(OVERFLOWING) == []
    root = "document.documentElement"
    assert page.value(f"{root}.scrollWidth - {root}.clientWidth") == 0
    assert width - page.value(f"{root}.clientWidth") in (0, 15)  # the bar of the other direction


def test_planted_faults_are_seen(browser: Browser, tmp_path: Path) -> None:
    """Each of the above would notice."""
    fault = (
        "<script>console.error('x')</script><img src='http://127.0.0.1:9/a.png'>"
        "<canvas width='400'></canvas></main>"
    )
    assert PAGES["passing"].count("</main>") == 1
    page = shown(browser, tmp_path, PAGES["passing"].replace("</main>", fault), PHONE_PX)
    assert len(page.complaints()) >= 2  # script and picture, both refused by the content policy
    assert page.value("document.documentElement.scrollWidth") > PHONE_PX
    assert ["CANVAS.null", 416] in page.value(OVERFLOWING)
    free = PAGES["passing"].replace("Content-Security-Policy", "x").replace("</main>", fault)
    page = shown(browser, tmp_path, free, PHONE_PX)
    assert "http://127.0.0.1:9/a.png" in page.requests()
    assert any("'x'" in complaint for complaint in page.complaints())
    bare = PAGES["passing"].replace("filter: blur(28px)", "filter: none")
    assert set(shown(browser, tmp_path, bare).value(BLURRED)) == {False}
