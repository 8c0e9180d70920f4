"""Side-by-side measurements, runnable by anyone: `python -m benchmarks.<name> --help` from the checkout."""

import ptl_prefix.backbones  # noqa: F401  # first: it quiets what transformers imports
