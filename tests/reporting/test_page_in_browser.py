"""The HTML page in a browser: plots are drawn, it fits any width, supports dark mode, and logs no errors."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.browser import Browser, chromium
from support.made_up_runs import MadeUp

from ptl_prefix.reporting.comparison import Comparison
from ptl_prefix.reporting.page import render_page

pytestmark = pytest.mark.slow
Compared = Callable[..., Comparison]
PHONE, DESK = 360, 1280


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    command = chromium()
    if command is None:
        pytest.skip("needs a browser: Chromium")
    with Browser(command, tmp_path / "profile") as browser:
        yield browser


@pytest.fixture
def file(compared: Compared, two_methods: list[MadeUp], tmp_path: Path) -> Path:
    """A page with two tables, long names, and outputs that contain scripts."""
    hostile = "<img src=x onerror=\"document.title='pwned'\"><script>document.title='pwned'</script>"
    long = {"init_text": f"{hostile} {'x' * 300}"}
    more = [MadeUp(task="rivers", settings=long, hypotheses=(hostile, "y" * 500, "")), MadeUp(task="rivers", bleu=51)]
    comparison = compared(*two_methods, *more)
    rows = [(table.task, table.backbone, row.number) for table in comparison.tables for row in table.rows]
    path = tmp_path / "comparison.html"
    path.write_text(render_page(comparison, dict.fromkeys(rows, "ptl-prefix train " + "z" * 300), num_examples=3))
    return path


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [PHONE, DESK])
def test_all_plots_are_drawn_and_nothing_is_wider_than_the_screen(
    browser: Browser, file: Path, width: int, dark: bool
) -> None:
    browser.show(file, width=width, dark=dark)

    assert browser.console_errors == []
    assert [url for url in browser.requests if not url.startswith("data:")] == [file.as_uri()]
    assert browser.evaluate("document.title").startswith("Comparison: rivers on tiny, towns on tiny")
    num_plots = browser.evaluate("document.querySelectorAll('.plot').length")
    assert num_plots == 4 + 5
    assert (
        browser.evaluate("[...document.querySelectorAll('.plot')].filter(p => p.querySelector('svg .trace')).length")
        == num_plots
    )
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    # A table may be wider than a desk's screen, and is then scrolled by itself; on a phone it has become cards.
    kept = "true" if width == PHONE else "!e.closest('.scroll')"
    elements = f"[...document.querySelectorAll('main *')].filter(e => {kept})"
    widest = f"Math.max(...{elements}.map(e => e.getBoundingClientRect().right))"
    assert browser.evaluate(widest) <= width


def brightness(browser: Browser, what: str) -> float:
    """Brightness, from 0 to 255, of a computed colour."""
    return float(browser.evaluate(f"(({what}).match(/\\d+/g).slice(0, 3).map(Number).reduce((a, b) => a + b) / 3)"))


def test_dark_mode_reaches_the_page_and_its_plots_and_follows_a_change(browser: Browser, file: Path) -> None:
    paper = "getComputedStyle(document.body).backgroundColor"
    label = "getComputedStyle(document.querySelector('.plot .xtick text')).fill"
    browser.show(file, width=DESK, dark=True)
    assert brightness(browser, paper) < 60
    assert brightness(browser, label) > 180

    browser.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "light"}])
    browser.wait_for(f"({label}).match(/\\d+/g).slice(0, 3).every(part => Number(part) < 90)")

    assert brightness(browser, paper) > 220


def test_a_row_can_be_hidden_and_a_metric_chosen(browser: Browser, file: Path) -> None:
    browser.show(file, width=DESK)
    section = "[...document.querySelectorAll('section')][1]"
    traces = f"[...{section}.querySelectorAll('.plot')][0].querySelectorAll('.trace.scatter').length"
    axis = f"[...{section}.querySelectorAll('.plot')][2].querySelector('.ytitle').textContent"
    before = browser.evaluate(traces)
    assert browser.evaluate(axis) == "test/bleu ↑"

    browser.evaluate(f"{section}.querySelector('button[data-row=\"1\"]').click()")
    browser.wait_for(f"{traces} === {before - 2}")
    select = f"{section}.querySelector('select')"
    choose = f"{select}.value = 'val/loss'; {select}.dispatchEvent(new Event('change'))"
    browser.evaluate(choose)
    browser.wait_for(f"{axis} === 'val/loss ↓'")

    assert browser.console_errors == []


def test_without_scripts_that_were_changed_the_tables_remain(browser: Browser, file: Path) -> None:
    """The policy allows the library by its hash; a replaced script does not run, and a note is shown."""
    text = file.read_text()
    start = text.index('id="library">') + len('id="library">')
    end = text.index("</script>", start)
    file.write_text(text[:start] + "AAAA" + text[end:])

    browser.send("Page.navigate", url=file.as_uri())
    browser.wait_for("document.querySelector('.no-plots')?.hidden === false")

    assert "61.17 ±3.13" in browser.evaluate("document.body.innerText")
