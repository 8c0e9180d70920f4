"""The comparison that the package ships, for those who have none of their own.

In: nothing. Out: the path of its `comparison.json`. The file is written by `ptl-prefix compare` alone.
"""

from pathlib import Path

from ptl_prefix.errors import ComparisonError
from ptl_prefix.reporting.comparison_record import COMPARISON_FILE

_FOLDER = Path(__file__).parent / "shipped"


def shipped_comparison(folder: Path = _FOLDER) -> Path:
    """The path of the shipped comparison.

    Args:
        folder: Folder of the package that would hold it.

    Raises:
        ComparisonError: This version ships none.
    """
    path = folder / COMPARISON_FILE
    if not path.is_file():
        raise ComparisonError(
            "Without arguments, `advise` reads the comparison that the package ships, but this version ships none, as "
            "no study of all methods has been run yet; give one of your own: ptl-prefix advise outputs/comparisons/NAME"
        )
    return path
