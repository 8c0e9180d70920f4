"""How the site is built: `make docs`. Everything is local; a warning is an error."""

import shutil
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import generate_llms  # noqa: E402 - it lies beside this file
import generate_reference  # noqa: E402
import links_outside  # noqa: E402
from sphinx.application import Sphinx  # noqa: E402
from sphinx.util import logging  # noqa: E402

import ptl_prefix.errors  # noqa: E402,F401 - fails here, and not page by page, where the package is not installed

project = "ptl_prefix"
author = "The ptl_prefix developers"
copyright = author
release = version = "0.1.0"

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb"}
nb_execution_mode = "off"  # tests/docs/test_notebooks.py compares the stored outputs with those of now
nb_render_markdown_format = "myst"
exclude_patterns = ["_build"]

myst_enable_extensions = ["colon_fence", "deflist", "attrs_inline", "attrs_block", "substitution"]
myst_heading_anchors = 4
myst_substitutions = {"version": version}

napoleon_google_docstring = True
napoleon_numpy_docstring = False
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_class_signature = "separated"
autodoc_typehints_description_target = "documented_params"
# Our docstrings write code in single backticks, as Markdown does.
default_role = "code"

nitpicky = True
# There is no inventory of other libraries offline; our own private names and type variables have no page.
nitpick_ignore_regex = [
    (r"py:.*", r"(torch|transformers|tokenizers|pathlib|collections|typing|annotated_types|Annotated|datetime)\b.*"),
    (r"py:.*", r"(str|int|float|bool|dict|list|tuple|set|frozenset|bytes|object|type|None|Path|Any|Ge|Gt|Le|Lt)"),
    (r"py:.*", r"(Sequence|Mapping|Iterable|Iterator|Callable|Literal|Exception|ValueError|Tensor|nn\.\w+|optional)"),
    (r"py:.*", r"ptl_prefix\..*"),
]

html_theme = "furo"
html_title = "ptl_prefix"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_extra_path = ["llms.txt"]  # read after `generate` has written it
html_copy_source = False
html_show_sphinx = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#1f5fa8", "color-brand-content": "#1f5fa8"},
    "dark_css_variables": {"color-brand-primary": "#7fb4f0", "color-brand-content": "#7fb4f0"},
}
pygments_style = "friendly"
pygments_dark_style = "github-dark"


def generate(app: Sphinx, _: Any) -> None:
    """Write what is generated, or, when asked to check, warn of what is out of date."""
    is_check = app.config.generated == "check"
    stale = [f"reference/{path.name}" for path in generate_reference.out_of_date(write=not is_check)]
    listing = generate_llms.listing()
    if not generate_llms.LISTING.is_file() or generate_llms.LISTING.read_text(encoding="utf-8") != listing:
        stale.append("llms.txt")
        if not is_check:
            generate_llms.LISTING.write_text(listing, encoding="utf-8")
    for name in stale if is_check else ():
        logging.getLogger(__name__).warning("docs/%s is out of date; run: make docs", name)


def copy_sources(app: Sphinx, error: Exception | None) -> None:
    """Put each page's Markdown or notebook beside its HTML, where llms.txt says that it is."""
    if error is None and app.builder.format == "html":
        for page in (*HERE.rglob("*.md"), *HERE.rglob("*.ipynb")):
            if "_build" not in page.parts:
                target = Path(app.outdir) / page.relative_to(HERE)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(page, target)


def setup(app: Sphinx) -> None:
    """Sphinx calls this."""
    app.add_config_value("generated", "write", "")
    app.connect("config-inited", generate)
    app.connect("source-read", links_outside.adapt_links)
    app.connect("build-finished", copy_sources)
