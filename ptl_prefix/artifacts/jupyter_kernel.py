"""Whether this process is the kernel of a Jupyter notebook.

In: nothing. Out: a boolean. IPython is not imported: a kernel has imported it already.
"""

import sys


def is_jupyter_kernel() -> bool:
    """Whether what this process prints appears under a notebook's cell."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return hasattr(shell, "kernel")
