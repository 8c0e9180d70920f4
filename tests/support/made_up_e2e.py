"""A few lines in the form of E2E's files."""

from pathlib import Path

FILES = ("trainset.csv", "devset.csv", "testset_w_refs.csv")


def write_e2e(folder: Path, *, num_inputs: int = 6, num_references: int = 3) -> Path:
    """Write all splits to `folder/e2e`; return the folder. Every input has as many references."""
    (folder / "e2e").mkdir(parents=True)
    for name in FILES:
        rows = [
            f'"name[The Eagle {number}], food[French]","The Eagle {number} serves French food, guest {guest} says."'
            for number in range(num_inputs)
            for guest in range(num_references)
        ]
        (folder / "e2e" / name).write_text("\n".join(["mr,ref", *rows]) + "\n", encoding="utf-8")
    return folder
