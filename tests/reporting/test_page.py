"""The HTML page is self-contained, and text from models and users is escaped."""

import json
import re
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from support.made_up_runs import MadeUp

from ptl_prefix.reporting.compared_run import ExcludedRun
from ptl_prefix.reporting.comparison import Comparison
from ptl_prefix.reporting.page import render_page

Compared = Callable[..., Comparison]
HOSTILE = "</script><script>document.title='pwned'</script><img src=x onerror=alert(1)> \" onmouseover='x' & <!--"


class Elements(HTMLParser):
    """The elements of a page, with their attributes, and the text outside scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside not in ("script", "style"):
            self.text.append(data)


def made(comparison: Comparison, command: str = "ptl-prefix train") -> str:
    rows = [(table.task, table.backbone, row.number) for table in comparison.tables for row in table.rows]
    return render_page(comparison, dict.fromkeys(rows, command), num_examples=3)


@pytest.fixture
def hostile(compared: Compared) -> str:
    runs = [
        MadeUp(
            hypotheses=(HOSTILE, HOSTILE, HOSTILE),
            references=(HOSTILE, "b", "c"),
            more_metrics={f"test/{HOSTILE}": 1.0},
        ),
        MadeUp(settings={"init_text": HOSTILE}, bleu=40, references=(HOSTILE, "b", "c")),
    ]
    found = compared(*runs)
    return made(Comparison(found.tables, (ExcludedRun(Path(f"out/{HOSTILE}"), HOSTILE),)), command=HOSTILE)


def test_text_from_models_and_users_is_escaped(hostile: str) -> None:
    elements = Elements(hostile)

    tags = [tag for tag, _ in elements.found]
    assert tags.count("script") == 3
    assert "img" not in tags
    attributes = {name for _, attributes in elements.found for name in attributes}
    assert not any(name.startswith("on") for name in attributes), attributes
    assert "".join(elements.text).count("document.title='pwned'") >= 8


def test_the_page_makes_no_requests_and_its_policy_forbids_them(hostile: str) -> None:
    elements = Elements(hostile)

    addresses = [
        value for _, attributes in elements.found for name, value in attributes.items() if name in ("src", "href")
    ]
    assert addresses == ["data:,"]
    (policy,) = (a["content"] for tag, a in elements.found if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy
    assert "script-src 'unsafe-inline'" not in policy


def test_the_figures_are_valid_json(compared: Compared) -> None:
    text = made(compared(MadeUp(), MadeUp(settings={"init_text": HOSTILE}, bleu=40)))

    (found,) = re.findall(r'<script type="application/json" id="figures">(.*?)</script>', text, re.DOTALL)
    figures = json.loads(found)
    assert len(figures) == text.count('<div class="plot">') == 4
    assert set(figures[2]) == {"test/bleu", "val/loss"}


def test_the_page_is_reproducible(compared: Compared, monkeypatch: pytest.MonkeyPatch) -> None:
    comparison = compared(MadeUp(), MadeUp(seed=1))
    first = made(comparison)

    monkeypatch.setattr(time, "time", lambda: 1e9)

    assert made(comparison) == first


def test_a_page_is_small_enough_to_be_sent(compared: Compared) -> None:
    assert len(made(compared(MadeUp()))) < 2_500_000


def test_every_row_has_its_metrics_outputs_and_command(compared: Compared, two_methods: list[MadeUp]) -> None:
    text = "".join(Elements(made(compared(*two_methods), "ptl-prefix train -m seed=0,1,2")).text)

    for piece in (
        "61.17 ±3.13",
        "60.33 ±3.13\N{NO-BREAK SPACE}≈",
        "prefix_tuning prefix_length=20",
        "best row",
        "paired t",
        "5.0 kB",
    ):
        assert piece in text
    assert text.count("ptl-prefix train -m seed=0,1,2") == 3
    assert text.count("a lake") == 3 * 1 + 1
