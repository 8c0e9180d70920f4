"""Settings: keyword arguments whose defaults live in conf/ and whose types and ranges live in the signature.

A constructor marked with `@settings_from("method/prefix_tuning")` takes keyword arguments only. From Python, what is
left out comes from `conf/method/prefix_tuning.yaml`, the one home of defaults; whatever is given is checked against
the annotations. From the command line the same check runs on the whole composed config before anything is built.

In: a callable and values. Out: the values, complete; or every mistake as one sentence.
"""

import difflib
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

_other_configs: ContextVar[Path | None] = ContextVar("_other_configs", default=None)


def conf_dir() -> Path:
    """The folder of configs: inside the package when installed from a wheel, beside it in a checkout."""
    return _config_folder("conf")


def sweeps_dir() -> Path:
    """The folder of predefined studies, found like `conf_dir`."""
    return _config_folder("sweeps")


@contextmanager
def read_configs_from(folder: Path) -> Iterator[None]:
    """Read configs from `conf` and `sweeps` in this folder, such as a study's own copy of them."""
    token = _other_configs.set(folder)
    try:
        yield
    finally:
        _other_configs.reset(token)


def _config_folder(name: str) -> Path:
    other = _other_configs.get()
    return _shipped_dir(name) if other is None else other / name


def _shipped_dir(name: str) -> Path:
    package = Path(__file__).resolve().parent
    inside = package / name
    return inside if inside.is_dir() else package.parent / name


def defaults_of(config: str) -> Mapping[str, Any]:
    """The defaults in `conf/<config>.yaml`, without `_target_` and values that come from the rest of the config."""
    return _read_defaults(conf_dir() / f"{config}.yaml")


@functools.cache
def _read_defaults(path: Path) -> Mapping[str, Any]:
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    # A mapping in a file with a defaults list changes another config, and means nothing without that.
    is_whole = values.pop("defaults", None) is None
    return {
        key: value
        for key, value in values.items()
        if not key.startswith("_")
        and not (isinstance(value, str) and ("${" in value or value == "???"))
        and (is_whole or not isinstance(value, Mapping))
    }


def settings_from(config: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Fill what the caller leaves out from `conf/<config>.yaml`, and check the types and ranges of all of it.

    Raises:
        ValueError: Naming every mistake in the arguments.
    """

    def decorate(init: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(init)
        def checked(self: object, **given: Any) -> None:
            values = {**defaults_of(config), **given}
            if mistakes := argument_problems(init, values, where=config.split("/")[0]):
                raise ValueError(" ".join(mistakes))
            init(self, **values)

        return checked

    return decorate


def with_settings_of(base: Callable[..., None]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let a constructor take the settings of its base class, which stand as `**shared` in it and are handed on.

    To defaults, checks and whoever asks for its signature it is one constructor with all of these keywords.
    """

    def decorate(init: Callable[..., None]) -> Callable[..., None]:
        theirs = _keyword_parameters(base)
        signature = inspect.signature(init)
        own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        init.__signature__ = signature.replace(parameters=[*own, *theirs.values()])  # type: ignore[attr-defined]
        init.__annotations__ |= {name: parameter.annotation for name, parameter in theirs.items()}
        return init

    return decorate


def argument_problems(target: Callable[..., Any], values: Mapping[str, Any], where: str) -> list[str]:
    """Every way in which `values` cannot be the keyword arguments of `target`, one sentence each.

    Args:
        target: A class or function with annotated keyword arguments.
        values: What the config gives.
        where: What the settings are called in the sentences: `where.key`.
    """
    hints = _hints(target)
    parameters = _keyword_parameters(target)
    mistakes = []
    for key in values:
        if key not in parameters:
            mistakes.append(f"`{where}.{key}` is not a setting of {_name(target)}; {_nearest(key, list(parameters))}")
    for key, parameter in parameters.items():
        if key not in values:
            if parameter.default is inspect.Parameter.empty:
                mistakes.append(f"`{where}.{key}` must be given.")
        elif key in hints:
            mistakes += [f"`{where}.{key}` {fact}" for fact in _misfits(hints[key], values[key])]
    return mistakes


def _nearest(key: str, known: list[str]) -> str:
    """The way out of a misspelt key: the likely ones, or all of them when none is likely."""
    likely = difflib.get_close_matches(key, known, n=3)
    return f"did you mean {' or '.join(likely)}?" if likely else f"those are: {', '.join(sorted(known))}."


def _keyword_parameters(target: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(_signature_of(target)).parameters
    named = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return {name: p for name, p in parameters.items() if p.kind in named and name != "self"}


def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    return get_type_hints(_signature_of(target), include_extras=True)


def _signature_of(target: Callable[..., Any]) -> Callable[..., Any]:
    """Where the annotations are: a class's `__init__`, beneath every decorator."""
    function = target.__init__ if inspect.isclass(target) else target
    unwrapped: Callable[..., Any] = inspect.unwrap(function)
    return unwrapped


def _name(target: Callable[..., Any]) -> str:
    return str(getattr(target, "__qualname__", target)).removesuffix(".__init__")


def _misfits(annotation: Any, value: Any) -> list[str]:
    """What is wrong with one value. Strict, as YAML has types of its own: "5" is no number and 1 is no boolean."""
    adapter: TypeAdapter[Any] = TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True))
    try:
        adapter.validate_python(value, strict=True)
    except ValidationError as error:
        return [_sentence(annotation, error, value)]
    return []


_BOUNDS = {"greater_than_equal": "ge", "greater_than": "gt", "less_than_equal": "le", "less_than": "lt"}
_SIGNS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


def _sentence(annotation: Any, error: ValidationError, value: Any) -> str:
    """Law, then fact, as in `must be >= 1, but is 0.`, to follow the setting's name."""
    details = error.errors()
    for detail in details:
        # A bound that is broken says more than the other members of a union, which were never meant.
        if bound := _BOUNDS.get(detail["type"]):
            part = f" (at {list(detail['loc'])})" if detail["loc"] and isinstance(detail["loc"][-1], int) else ""
            return f"must be {_SIGNS[bound]} {detail['ctx'][bound]}, but is {value!r}{part}."
    if len(details) == 1 and details[0]["type"] == "literal_error":
        return f"must be {details[0]['ctx']['expected']}, but is {value!r}."
    if details[0]["type"] == "finite_number":
        return f"must be a finite number, but is {value!r}."
    return f"must be {_spoken(annotation)}, but is {value!r}."


def _spoken(annotation: Any) -> str:
    """A type as a user would say it: `int | None` is `int or null`."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _spoken(arguments[0])
    if origin is Literal:
        return " or ".join(repr(argument) for argument in arguments)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(_spoken(argument) for argument in arguments))
    if origin is not None and issubclass(origin, Sequence) and arguments:
        return f"a list of {_spoken(arguments[0])}"
    if annotation is type(None):
        return "null"
    return str(getattr(annotation, "__name__", annotation))
