"""Silences messages of transformers' optional libraries that a user of the command line cannot act on.

In: nothing. Out: the levels of a few loggers are raised. The package never does it by itself: a library leaves the
logging of the program that imports it alone. The command line and the tests call it before transformers is imported,
because transformers imports torchao, if it is installed, and torchao logs while it is imported. A notebook is a
program of its reader, but shows such messages in red above the first result: there, the package calls it as well.
"""

import logging
import warnings

from ptl_prefix.artifacts.jupyter_kernel import is_jupyter_kernel

_LOGGERS = (
    "torchao",  # kernels that are missing for this processor
    "bitsandbytes.backends.cpu.ops",  # likewise
    "torch.utils._pytree",  # a call by torchao that torch will remove
    "bitsandbytes.autograd._functions",  # LLM.int8 casts inputs to float16: logged at every multiplication
)


def silence_library_messages() -> None:
    """Hide messages below ERROR of the libraries that transformers imports."""
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)


def silence_library_messages_in_notebook() -> None:
    """In a notebook, hide them, and tqdm's advice to install ipywidgets, which nothing here needs."""
    if is_jupyter_kernel():
        silence_library_messages()
        warnings.filterwarnings("ignore", message="IProgress not found")
