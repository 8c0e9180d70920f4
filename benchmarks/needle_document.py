"""Writes a needle test: a document with made-up facts at several depths, and the questions for them.

In: a number of sentences and a seed. Out: `document.txt` and `questions.jsonl` in a folder, which `ptl-prefix distill`
and `ptl-prefix examine` read as any others.
"""

import argparse
from pathlib import Path

from ptl_prefix.evaluation.needle import DEPTHS, needle_test


def main() -> None:
    """Write a needle test to a folder."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--sentences", type=int, default=150, help="sentences of filler, of about 20 tokens each")
    parser.add_argument("--depths", type=float, nargs="+", default=DEPTHS, help="places of the needles, from 0 to 1")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    needle_test(num_sentences=given.sentences, depths=given.depths, seed=given.seed).write(given.out)
    print(f"{given.out / 'document.txt'} and {given.out / 'questions.jsonl'}")


if __name__ == "__main__":
    main()
