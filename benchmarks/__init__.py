"""Side-by-side measurements, runnable by anyone: `python -m benchmarks.<name> --help` from the checkout."""

import ptl_prefix.backbones  # noqa: F401  # imported first, because it silences warnings of transformers
