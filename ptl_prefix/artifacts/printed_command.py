"""Commands that messages tell the user to run.

In: the words of a command of ours. Out: a line that a shell reads as these words, whatever characters a path has.
"""

import shlex


def printed_command(*words: object) -> str:
    """The command line `ptl-prefix <words>`, quoted for a shell."""
    return shlex.join(["ptl-prefix", *map(str, words)])
