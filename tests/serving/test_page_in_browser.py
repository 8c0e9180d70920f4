"""The page at `/` in a browser: it fits any width, follows dark mode, asks its own server only, and generates."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.browser import Browser, chromium
from support.live_server import KEY, LiveServer, live_server, wait_until
from support.scripted_engine import ScriptedEngine

pytestmark = pytest.mark.slow
PHONE, DESK = 360, 1280
HOSTILE = "<img src=x onerror=\"document.title='pwned'\"><script>document.title='pwned'</script>"


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    command = chromium()
    if command is None:
        pytest.skip("needs a browser: Chromium")
    with Browser(command, tmp_path / "profile") as browser:
        yield browser


@pytest.fixture
def server() -> Iterator[LiveServer]:
    with live_server(engine=ScriptedEngine(seconds_per_token=0.02)) as server:
        yield server


def generate(browser: Browser, source: str) -> None:
    browser.evaluate(f"byId('source').value = {source!r}; byId('form').requestSubmit()")
    browser.wait_for("document.querySelectorAll('article').length && !document.querySelector('article.running')")


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [PHONE, DESK])
def test_tasks_answer_side_by_side_and_nothing_is_wider_than_the_screen(
    browser: Browser, server: LiveServer, width: int, dark: bool, tmp_path: Path
) -> None:
    browser.open(f"{server.url}/#key={KEY}", width=width, dark=dark)
    browser.wait_for("document.documentElement?.dataset.connected !== undefined")
    generate(browser, f"name : {'x' * 300} {HOSTILE}")
    browser.screenshot(tmp_path / "page.png")

    assert browser.evaluate("[...document.querySelectorAll('.text')].map(one => one.textContent)") == [
        "The Old Mill is a pub in Rome.",
        "The Old Mill is a pub in Rome.",
    ]
    facts = browser.evaluate("[...document.querySelectorAll('.facts')].map(one => one.textContent)")
    assert all("9 tokens" in one and "tokens/s" in one and "prefix 5" in one for one in facts)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert (
        browser.evaluate(
            "Math.max(...[...document.querySelectorAll('main *')].map(e => e.getBoundingClientRect().right))"
        )
        <= width
    )
    paper = browser.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]")
    assert paper < 60 if dark else paper > 220
    assert browser.evaluate("location.href") == f"{server.url}/"  # the key is not left in the address
    assert {url for url in browser.requests if not url.startswith(server.url)} == set()
    assert browser.console_errors == []


def test_without_a_key_the_page_asks_for_one(browser: Browser, server: LiveServer) -> None:
    browser.open(server.url, width=DESK)
    browser.wait_for("document.getElementById('key-form')?.hidden === false")

    browser.evaluate("byId('key').value = 'wrong'; byId('key-form').requestSubmit()")
    browser.wait_for("byId('state').textContent.includes('does not know')")
    browser.evaluate(f"byId('key').value = {KEY!r}; byId('key-form').requestSubmit()")

    browser.wait_for("document.documentElement.dataset.connected !== undefined && byId('key-form').hidden")


def test_a_text_that_is_stopped_is_cancelled_in_the_engine(browser: Browser, server: LiveServer) -> None:
    server.engine.seconds_per_token = 0.2
    browser.open(f"{server.url}/#key={KEY}", width=DESK)
    browser.wait_for("document.documentElement?.dataset.connected !== undefined")
    browser.evaluate("byId('source').value = 'a'; byId('form').requestSubmit()")
    browser.wait_for("document.querySelector('.text')?.textContent.length")

    browser.evaluate("byId('stop').click()")

    browser.wait_for("document.querySelector('.facts').textContent === 'Stopped.'")
    wait_until(lambda: len(server.engine.cancelled) == 2)


def test_what_the_engine_writes_is_shown_as_text(browser: Browser, server: LiveServer) -> None:
    server.engine.words = (HOSTILE,)
    browser.open(f"{server.url}/#key={KEY}", width=DESK)
    browser.wait_for("document.documentElement?.dataset.connected !== undefined")

    generate(browser, "a")

    assert browser.evaluate("document.querySelector('.text').textContent") == HOSTILE
    assert browser.evaluate("document.title") == "ptl_prefix: try the tasks"
    assert browser.evaluate("document.querySelectorAll('article img').length") == 0
