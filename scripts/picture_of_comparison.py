"""The README's picture: the top of a comparison's page, in light and in dark.

In: the `comparison.html` of `ptl-prefix compare`, and a folder. Out: `comparison_light.png` and `comparison_dark.png`
there, drawn by Chromium. What the README shows is the comparison of docs/tutorials/comparing_methods.md:

    python scripts/picture_of_comparison.py outputs/comparisons/fair/comparison.html docs/_static
"""

import argparse
import base64
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from support.browser import Browser, chromium

_WIDTH = 1000
# The table and the learning curves say what the page is about; the rest of it would be too small to read.
_KEEP_THE_TOP = """
(() => {
  const section = document.querySelector("section.comparison");
  const kept = [section.querySelector("h1"), section.querySelector(".scroll"), section.querySelector(".figures")];
  for (const child of section.children) if (!kept.includes(child)) child.style.display = "none";
  for (const figure of [...section.querySelectorAll("figure")].slice(1)) figure.style.display = "none";
  const style = document.createElement("style");
  style.textContent = ".modebar { display: none !important; }";
  document.head.append(style);
  window.dispatchEvent(new Event("resize"));
  return true;
})()
"""
_HEIGHT = "Math.ceil(document.querySelector('section.comparison .figures').getBoundingClientRect().bottom + 16)"


def main() -> None:
    """Draw a page in both colour schemes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path, help="comparison.html")
    parser.add_argument("out", type=Path, help="folder for the two pictures")
    given = parser.parse_args()
    command = chromium()
    if command is None:
        raise SystemExit("Chromium must be installed to draw the page, but none was found; install `chromium`.")
    for scheme in ("light", "dark"):
        with tempfile.TemporaryDirectory() as profile, Browser(command, Path(profile)) as browser:
            browser.show(given.page.resolve(), width=_WIDTH, dark=scheme == "dark")
            browser.evaluate(_KEEP_THE_TOP)
            browser.evaluate("new Promise(done => setTimeout(done, 1000))")
            clip = {"x": 0, "y": 0, "width": _WIDTH, "height": browser.evaluate(_HEIGHT), "scale": 1}
            answer = browser.send("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
            path = given.out / f"comparison_{scheme}.png"
            path.write_bytes(base64.b64decode(answer["data"]))
            print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
