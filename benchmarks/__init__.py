"""Side-by-side measurements, runnable by anyone: `python -m benchmarks.<name> --help` from the checkout."""

from ptl_prefix.backbones.library_logging import silence_library_messages

silence_library_messages()  # before a benchmark imports transformers
