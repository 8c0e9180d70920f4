"""Completion in bash, zsh and fish.

In: the words of an unfinished command line. Out: candidates for the last word. Verbs, flags and choices are completed
here; settings are completed by Hydra, which knows the config that the other words compose.
"""

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path

from ptl_prefix.commands.config import catalog
from ptl_prefix.commands.config.arguments import FLAG_NAMES, FLAG_VALUES, equal_sign
from ptl_prefix.commands.config.verbs import VERBS

INSTALLATION = {
    "bash": """eval "$(ptl-prefix completion bash)"  # in ~/.bashrc; bash 4.4 or newer""",
    "zsh": """eval "$(ptl-prefix completion zsh)"  # in ~/.zshrc, below compinit""",
    "fish": "ptl-prefix completion fish | source  # in ~/.config/fish/config.fish",
}
SHELLS = tuple(INSTALLATION)

_BASH = r"""_ptl_prefix() {
    local line="${COMP_LINE:0:COMP_POINT}" word found candidate
    local -a words
    read -ra words <<< "$line"
    [[ "$line" == *[[:space:]] ]] && words+=("")
    word="${words[${#words[@]}-1]}"
    COMPREPLY=()
    while IFS= read -r candidate; do
        # Bash splits words at = and :, and replaces only the last piece.
        COMPREPLY+=("${candidate:$(( ${#word} - ${#2} ))}")
        [[ "$candidate" == *[=./] ]] && compopt -o nospace
    done < <("$1" complete -- "${words[@]:1}" 2> /dev/null)
}
complete -o default -F _ptl_prefix ptl-prefix
"""

_ZSH = r"""#compdef ptl-prefix
_ptl_prefix() {
    local -a found open
    found=("${(@f)$(ptl-prefix complete -- "${(@)words[2,CURRENT]}" 2> /dev/null)}")
    found=(${found:#})
    if (( ! $#found )); then
        compset -P '*='
        _files
        return
    fi
    open=(${(M)found:#*[=./]})
    found=(${found:#*[=./]})
    (( $#open )) && compadd -S '' -a open
    (( $#found )) && compadd -a found
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then _ptl_prefix "$@"; else compdef _ptl_prefix ptl-prefix; fi
"""

_FISH = r"""complete --erase --command ptl-prefix
complete --command ptl-prefix --no-files --arguments \
    '(ptl-prefix complete -- (commandline -opc)[2..-1] (commandline -ct | string collect --allow-empty) 2> /dev/null)'
"""

_ACTIONS = {
    "sweep": ("plan", "run", "status", "resume", "stop", "export", "worker"),
    "route": ("evaluate",),
    "wandb": ("sync", "dashboard"),
}
"""The first arguments of verbs that have several actions."""
_PATHS = (
    *("run", "first_run", "second_run", "bundle", "bundles", "resume", "input", "output", "out", "checkpoint", "path"),
    *("init_bundle", "bertscore_model"),
)

_SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


def script(shell: str) -> str:
    """The completion script of a shell."""
    return _SCRIPTS[shell]


def candidates(words: Sequence[str]) -> list[str]:
    """Candidates for the last word.

    Args:
        words: All words after `ptl-prefix`; the last one is unfinished and may be empty.
    """
    *before, unfinished = words
    return sorted({candidate for candidate in _candidates(before, unfinished) if candidate.startswith(unfinished)})


def _candidates(before: list[str], unfinished: str) -> Sequence[str]:
    if not before:
        return (*VERBS, *catalog.CATALOGS, "metrics", "completion", *(("--help", "--version") if unfinished else ()))
    if before[0] == "completion":
        return SHELLS
    if before[0] not in VERBS or "--" in before:
        return ()
    if choices := FLAG_VALUES.get(before[-1]):
        return choices
    if unfinished.startswith("-"):
        return (*FLAG_NAMES, "--help")
    words = [word for word in before[1:] if equal_sign(word) is None]
    if offered := _arguments(before[0], words):
        return [*offered, *(_from_hydra(before[0], [], unfinished) if unfinished else [])]
    if (index := equal_sign(unfinished)) is not None:
        key, typed = unfinished[:index], unfinished[index + 1 :]
        if _takes_path(key) or (key == "backbone" and "/" in typed):
            return _paths(key, typed)
    # What follows a predefined study are settings of its trials.
    verb = "train" if before[0] == "sweep" and words[0] in ("plan", "run") else before[0]
    return _from_hydra(verb, [word for word in before[1:] if equal_sign(word)], unfinished)


def _arguments(verb: str, words: list[str]) -> list[str]:
    """The candidates for the next argument of a verb whose arguments are a closed set."""
    if not words:
        return list(_ACTIONS.get(verb, ()))
    if verb != "sweep" or len(words) > 1:
        return []
    if words[0] in ("plan", "run"):
        return [choice.name for choice in catalog.choices("sweeps")]
    return sorted(path.parent.name for path in Path("outputs/sweeps").glob("*/study.yaml"))


def _takes_path(key: str) -> bool:
    """Whether a setting is a path, by its name."""
    name = key.rpartition(".")[2]
    return name in _PATHS or name.endswith(("_file", "_dir", "_path"))


def _paths(key: str, typed: str) -> list[str]:
    """The setting with each path that continues what was typed; a folder ends with a slash."""
    folder, _, name = typed.rpartition("/")
    start = Path(f"{folder}/" if "/" in typed else ".").expanduser()
    found = sorted(start.glob("*")) if start.is_dir() else []
    before = typed[: len(typed) - len(name)]
    return [f"{key}={before}{path.name}{'/' if path.is_dir() else ''}" for path in found if path.name[0] != "."]


def _from_hydra(verb: str, overrides: list[str], unfinished: str) -> list[str]:
    # Imported here: verbs and flags are completed without Hydra.
    from ptl_prefix.commands.hydra_main import print_hydra_completion

    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.suppress(SystemExit):
        print_hydra_completion(VERBS[verb], overrides, unfinished)
    return printed.getvalue().split("\n")
