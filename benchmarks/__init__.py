"""Side-by-side measurements, runnable by anyone: `python -m benchmarks.<name> --help` from the checkout."""
