"""Splits a command line into arguments, overrides and Hydra's flags.

In: the words after the verb. Out: a `CommandLine`. A word without an unquoted `=` is an argument of the verb and never
reaches Hydra; so is the path of an existing file, and every word after `--`. Hydra's grammar refuses many bare paths
(`=`, `,`, brackets, quotes, letters beyond ASCII): a value that can only be a path or a text is quoted here; the syntax
of Hydra is left unchanged.
"""

import difflib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_VALUES = {
    "--cfg": ("job", "hydra", "all"),
    "--info": ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
}
_FLAGS = {
    # Hydra's flag: its short form, and whether it takes a value.
    "--cfg": ("-c", True),
    "--package": ("-p", True),
    "--config-name": ("-cn", True),
    "--config-dir": ("-cd", True),
    "--info": ("-i", True),
    "--multirun": ("-m", False),
    "--run": ("-r", False),
    "--resolve": (None, False),
    "--hydra-help": (None, False),
}
FLAG_NAMES = tuple(_FLAGS)
FLAG_VALUES = {name: values for flag, values in _VALUES.items() for name in (flag, _FLAGS[flag][0])}
"""Values that a flag may have."""

_LONG_FORM = {short: name for name, (short, _) in _FLAGS.items() if short}
_SHOWING = ("--cfg", "--info", "--hydra-help")


@dataclass(frozen=True)
class HydraFlags:
    """Hydra's own flags, in their long form; the value of one that takes none is `None`."""

    given: tuple[tuple[str, str | None], ...] = ()

    @property
    def multirun(self) -> bool:
        """Whether comma-separated values are a sweep."""
        return "--multirun" in dict(self.given)

    @property
    def only_show(self) -> bool:
        """Whether Hydra prints something and runs nothing."""
        return any(name in _SHOWING for name, _ in self.given)

    @property
    def config_name(self) -> str | None:
        """Name of the primary config; `None` is the verb's own."""
        return dict(self.given).get("--config-name")

    @property
    def config_dir(self) -> str | None:
        """Folder of configs in addition to the package's; `None` if there is none."""
        return dict(self.given).get("--config-dir")

    def without_multirun(self) -> "HydraFlags":
        """The flags of one job of a sweep."""
        return HydraFlags(tuple((name, value) for name, value in self.given if name != "--multirun"))

    def arguments(self) -> list[str]:
        """The flags as Hydra reads them; written `--info=all`, as a bare `--info` would swallow the next override."""
        return [name if value is None else f"{name}={value}" for name, value in self.given]


@dataclass(frozen=True)
class CommandLine:
    """The parts of a command line after the verb.

    Args:
        arguments: Arguments of the verb.
        overrides: Settings, quoted for Hydra's grammar.
        flags: Hydra's flags.
    """

    arguments: tuple[str, ...]
    overrides: tuple[str, ...]
    flags: HydraFlags


def split_command_line(words: Sequence[str]) -> CommandLine:
    """Split the words after a verb.

    Raises:
        ValueError: For a flag that is unknown, has no value, or contradicts another.
    """
    arguments: list[str] = []
    settings: list[str] = []
    flags: list[tuple[str, str | None]] = []
    rest = iter(words)
    following = next(rest, None)
    while following is not None:
        word, following = following, next(rest, None)
        if word == "--":
            arguments += [argument for argument in (following, *rest) if argument is not None]
            break
        if word.startswith("-") and word != "-":
            name, value, used_following = _parse_flag(word, following)
            flags.append((name, value))
            if used_following:
                following = next(rest, None)
        elif equal_sign(word) is None or os.path.exists(word):
            arguments.append(_without_quotes(word))
        else:
            settings.append(word)
    hydra_flags = HydraFlags(tuple(flags))
    _check_together([name for name, _ in flags])
    overrides = tuple(quoted_override(setting, sweeping=hydra_flags.multirun) for setting in settings)
    return CommandLine(tuple(arguments), overrides, hydra_flags)


def _check_together(flags: Sequence[str]) -> None:
    modes = [name for name in flags if name in (*_SHOWING, "--multirun", "--run")]
    if len(modes) > 1:
        raise ValueError(f"Only one of {', '.join(modes)} can be given.")
    for name in ("--resolve", "--package"):
        if name in flags and "--cfg" not in flags:
            raise ValueError(f"{name} must be given together with --cfg, which is missing.")


def _parse_flag(word: str, following: str | None) -> tuple[str, str | None, bool]:
    """A flag's long form, its value, and whether the value was the following word."""
    typed, has_value, value = word.partition("=")
    name = _LONG_FORM.get(typed, typed)
    if name not in _FLAGS:
        likely = difflib.get_close_matches(typed, [*_FLAGS, "--help"], n=1)
        hint = f"Did you mean {likely[0]}?" if likely else f"The flags are: {', '.join(['--help', *_FLAGS])}."
        raise ValueError(f"{typed} is not a flag. {hint} After `--` it would be an argument.")
    if not _FLAGS[name][1]:
        if has_value:
            raise ValueError(f"{name} takes no value, but got '{value}'.")
        return name, None, False
    if has_value:
        return name, _checked(name, value), False
    if name == "--info" and following not in _VALUES["--info"]:
        return name, "all", False
    if following is None:
        raise ValueError(f"{name} must be followed by its value.")
    return name, _checked(name, following), True


def _checked(name: str, value: str) -> str:
    if name in _VALUES and value not in _VALUES[name]:
        raise ValueError(f"{name} must be one of {', '.join(_VALUES[name])}, but is '{value}'.")
    return value


def equal_sign(word: str) -> int | None:
    """Index of the first `=` outside quotes and not after a backslash; `None` if there is none."""
    return next((index for index, character in _bare_characters(word) if character == "="), None)


def _bare_characters(text: str) -> Iterator[tuple[int, str]]:
    """The characters outside quotes, with their index. A quote that is never closed is an apostrophe."""
    index = 0
    while index < len(text):
        character = text[index]
        if character == "\\":
            index += 1
        elif character in "'\"" and (end := _closing_quote(text, index)) is not None:
            index = end
        else:
            yield index, character
        index += 1


def _closing_quote(text: str, start: int) -> int | None:
    end = text.find(text[start], start + 1)
    while end > 0 and _backslashes_before(text, end) % 2:
        end = text.find(text[start], end + 1)
    return end if end > 0 else None


def _backslashes_before(text: str, index: int) -> int:
    return index - len(text[:index].rstrip("\\"))


def _without_quotes(word: str) -> str:
    """The text inside, if quotes surround the whole word."""
    if len(word) > 1 and word[0] in "'\"" and _closing_quote(word, 0) == len(word) - 1:
        return word[1:-1]
    return word


_FUNCTION = re.compile(
    r"(bool|choice|extend_list|float|glob|int|interval|json_str|range|shuffle|sort|str|tag)\s*\(.*\)", re.DOTALL
)
_LEGAL = re.compile(r"[A-Za-z0-9_/\\+.$%*@?|: \t-]*")
_PLAIN = re.compile(r"[A-Za-z0-9_/+.%@:-]*")


def quoted_override(setting: str, *, sweeping: bool) -> str:
    """`key=value` with the value quoted where Hydra's grammar would refuse or change it.

    Args:
        setting: Setting as the user typed it.
        sweeping: Whether commas separate the values of a sweep.
    """
    index = equal_sign(setting)
    assert index is not None
    return setting[: index + 1] + _quoted_value(setting[index + 1 :], sweeping=sweeping)


def _quoted_value(value: str, *, sweeping: bool) -> str:
    path = os.path.expanduser(value)
    if not _PLAIN.fullmatch(value) and os.path.exists(path):
        return quoted(path)
    if _is_hydra_syntax(value):
        return value
    parts = _comma_separated(value)
    if len(parts) == 1:
        return value if _LEGAL.fullmatch(value) else quoted(path)
    if sweeping:
        return ",".join(_quoted_value(part, sweeping=True) for part in parts)
    # Without a sweep a comma belongs to a path or is a mistake, which Hydra reports.
    is_path = "/" in value and not any(_is_hydra_syntax(part) for part in parts)
    return quoted(path) if is_path else value


def _is_hydra_syntax(value: str) -> bool:
    """Whether a value is a list, dictionary, function, interpolation or quoted text: its author knows the grammar."""
    text = value.strip()
    surrounded = len(text) > 1 and (text[0] + text[-1] in ("[]", "{}") or _without_quotes(text) != text)
    return surrounded or "${" in text or _FUNCTION.fullmatch(text) is not None


def _comma_separated(value: str) -> list[str]:
    """The parts of a value between the commas outside quotes and brackets."""
    depth = 0
    cuts = [-1]
    for index, character in _bare_characters(value):
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth <= 0:
            cuts.append(index)
    return [value[start + 1 : end] for start, end in zip(cuts, [*cuts[1:], len(value)], strict=True)]


def quoted(text: str) -> str:
    """The text as a quoted value of Hydra's grammar, where only backslashes before a quote or the end are special."""
    mark = '"' if "'" in text and '"' not in text else "'"
    escaped = re.sub(rf"(\\*){mark}", lambda match: match[1] * 2 + "\\" + mark, text)
    trailing = _backslashes_before(escaped, len(escaped))
    return f"{mark}{escaped}{escaped[len(escaped) - trailing :]}{mark}"
