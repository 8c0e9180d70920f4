"""Settings: keyword arguments whose defaults live in conf/ and whose types and ranges live in the signature.

A constructor marked with `@settings_from("method/prefix_tuning")` takes keyword arguments only. From Python, omitted
arguments come from `conf/method/prefix_tuning.yaml`, the only place of defaults, and given ones are checked against the
annotations. From the command line the same check runs on the whole composed config before anything is built.

In: a callable and values. Out: the complete values; or one sentence for each problem.
"""

import difflib
import functools
import inspect
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    from pydantic import ValidationError

_GIVEN = "_given_settings"
_other_configs: ContextVar[Path | None] = ContextVar("_other_configs", default=None)


def conf_dir() -> Path:
    """The folder of configs: inside the package when installed from a wheel, beside it in a checkout."""
    return _config_folder("conf")


def sweeps_dir() -> Path:
    """The folder of predefined studies, found like `conf_dir`."""
    return _config_folder("sweeps")


def working_dir_of(name: str) -> Path | None:
    """The user's own folder `./conf` or `./sweeps`; `None` without one, if it is the package's own, or in a study."""
    folder = Path.cwd() / name
    if _other_configs.get() is not None or not folder.is_dir():
        return None
    return None if folder.samefile(_shipped_dir(name)) else folder


def other_configs() -> Path | None:
    """The folder that configs are read from in a block of `read_configs_from`; `None` outside of one."""
    return _other_configs.get()


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
    """The defaults in `conf/<config>.yaml`, without `_target_` and values that come from the rest of the config.

    A study's copy of the file may be of an earlier version: keys that it lacks have the package's defaults.
    """
    own = conf_dir() / f"{config}.yaml"
    return _read_defaults(own) if _other_configs.get() is None else {**_shipped_defaults(config), **_read_defaults(own)}


def _shipped_defaults(config: str) -> Mapping[str, Any]:
    path = _shipped_dir("conf") / f"{config}.yaml"
    return _read_defaults(path) if path.is_file() else {}


@functools.cache
def _read_defaults(path: Path) -> Mapping[str, Any]:
    # Imported here, as pydantic below: the help of the command line reads no config and checks none.
    import yaml

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


class GivenSettings(NamedTuple):
    """What an object was built from.

    Args:
        config: Config with the defaults, such as `method/prefix_tuning`.
        values: Arguments that were given.
    """

    config: str
    values: Mapping[str, Any]


def given_settings(built: object) -> GivenSettings | None:
    """What an object with a constructor of `settings_from` was built from; `None` for every other object."""
    given: GivenSettings | None = getattr(built, "__dict__", {}).get(_GIVEN)
    return given


def settings_from(config: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Fill omitted arguments from `conf/<config>.yaml`, and check the types and ranges of all arguments.

    Raises:
        ValueError: With every problem of the arguments.
    """

    def decorate(init: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(init)
        def checked(self: object, **given: Any) -> None:
            # Of the class itself: a base class's constructor, which may be marked too, runs later.
            self.__dict__.setdefault(_GIVEN, GivenSettings(config, given))
            values = {**defaults_of(config), **given}
            if problems := argument_problems(init, values, where=config.split("/")[0]):
                raise ValueError(" ".join(problems))
            init(self, **values)

        checked.config = config  # type: ignore[attr-defined]
        return checked

    return decorate


def with_settings_of(
    base: Callable[..., None], *, without: Collection[str] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let a constructor take the settings of its base class, which it receives as `**shared` and passes on.

    Its signature has all of these keywords, for defaults, checks and documentation.

    Args:
        base: Constructor of the base class.
        without: Settings of it that the constructor decides itself.
    """

    def decorate(init: Callable[..., None]) -> Callable[..., None]:
        inherited = {name: one for name, one in _keyword_parameters(base).items() if name not in without}
        signature = inspect.signature(init)
        own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        init.__signature__ = signature.replace(parameters=[*own, *inherited.values()])  # type: ignore[attr-defined]
        init.__annotations__ |= {name: parameter.annotation for name, parameter in inherited.items()}
        return init

    return decorate


def argument_problems(target: Callable[..., Any], values: Mapping[str, Any], where: str) -> list[str]:
    """Every reason why `values` cannot be the keyword arguments of `target`, one sentence each.

    Args:
        target: Class or function with annotated keyword arguments.
        values: Keyword arguments to check.
        where: Name of the node: the sentences call a setting `where.key`.
    """
    hints = _hints(target)
    parameters = _keyword_parameters(target)
    new_keys = _new_keys(target)
    problems = []
    for key in values:
        if key not in parameters:
            problems.append(f"`{where}.{key}` is not a setting of {_name(target)}; {_nearest(key, list(parameters))}")
    for key, parameter in parameters.items():
        if key not in values:
            if parameter.default is inspect.Parameter.empty and key not in new_keys:
                problems.append(f"`{where}.{key}` must be given.")
        elif key in hints:
            problems += [f"`{where}.{key}` {fact}" for fact in _value_problems(hints[key], values[key])]
    return problems


def field_problems(annotations: Mapping[str, Any], values: Mapping[str, Any], *, where: str, owner: str) -> list[str]:
    """As `argument_problems`, for optional settings that are no arguments here but fields of another library's object.

    Args:
        annotations: Type of each field.
        values: Fields to check.
        where: Name of the node in the sentences.
        owner: Name of the object in the sentences.
    """
    unknown = [key for key in values if key not in annotations]
    problems = [f"`{where}.{key}` is not a setting of {owner}; {_nearest(key, list(annotations))}" for key in unknown]
    known = [key for key in values if key in annotations]
    return problems + [
        f"`{where}.{key}` {fact}" for key in known for fact in _value_problems(annotations[key], values[key])
    ]


def _new_keys(target: Callable[..., Any]) -> Collection[str]:
    """The keys that a study's copy of a config may lack, as it may be of an earlier version."""
    config = getattr(getattr(target, "__init__", None), "config", None)
    return () if config is None or _other_configs.get() is None else _shipped_defaults(config)


def _nearest(key: str, known: list[str]) -> str:
    """A hint for a misspelt key: similar keys, or all keys if none is similar."""
    likely = difflib.get_close_matches(key, known, n=3)
    return f"did you mean {' or '.join(likely)}?" if likely else f"the settings are: {', '.join(sorted(known))}."


def _keyword_parameters(target: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(_signature_of(target)).parameters
    named = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return {name: p for name, p in parameters.items() if p.kind in named and name != "self"}


def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    return get_type_hints(_signature_of(target), include_extras=True)


def _signature_of(target: Callable[..., Any]) -> Callable[..., Any]:
    """The function with the annotations: a class's `__init__`, without its decorators."""
    function = target.__init__ if inspect.isclass(target) else target
    unwrapped: Callable[..., Any] = inspect.unwrap(function)
    return unwrapped


def _name(target: Callable[..., Any]) -> str:
    return str(getattr(target, "__qualname__", target)).removesuffix(".__init__")


def _value_problems(annotation: Any, value: Any) -> list[str]:
    """The problem of one value. Strict, as YAML has types: "5" is not a number and 1 is not a boolean."""
    if (problem := _number_problem(value)) is not None:
        inside = f" (in {value!r})" if isinstance(value, Mapping | list | tuple) else ""
        return [f"{problem}{inside}."]
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    adapter: TypeAdapter[Any] = TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True))
    try:
        adapter.validate_python(value, strict=True)
    except ValidationError as error:
        return [_sentence(annotation, error, value)]
    return []


_FLOAT32_MAX = 3.4028234e38


def _number_problem(value: Any) -> str | None:
    """What is wrong with a number at any depth of a value: it is finite, floats fit float32, and integers 64 bits.

    This holds whatever a setting allows: a record could not hold another number, nor a tensor.
    """
    if isinstance(value, Mapping | list | tuple):
        parts = value.values() if isinstance(value, Mapping) else value
        return next((problem for part in parts if (problem := _number_problem(part)) is not None), None)
    if isinstance(value, float) and not abs(value) <= _FLOAT32_MAX:
        law = "a number that float32 can hold" if math.isfinite(value) else "a finite number"
        return f"must be {law}, but is {value!r}"
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return f"must be an integer of 64 bits, but is {value!r}"
    return None


_BOUNDS = {"greater_than_equal": "ge", "greater_than": "gt", "less_than_equal": "le", "less_than": "lt"}
_SIGNS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


def _sentence(annotation: Any, error: "ValidationError", value: Any) -> str:
    """What must hold and what was found, as in `must be >= 1, but is 0.`; follows the name of the setting."""
    details = error.errors()
    for detail in details:
        # A violated bound says more than the other members of a union.
        if bound := _BOUNDS.get(detail["type"]):
            part = f" (at {list(detail['loc'])})" if detail["loc"] and isinstance(detail["loc"][-1], int) else ""
            return f"must be {_SIGNS[bound]} {detail['ctx'][bound]}, but is {value!r}{part}."
    if len(details) == 1 and details[0]["type"] == "literal_error":
        expected = details[0]["ctx"]["expected"]
        if type(None) in get_args(annotation):
            expected = f"{expected.replace(' or ', ', ')} or null"
        return f"must be {expected}, but is {value!r}."
    if details[0]["type"] == "finite_number":
        return f"must be a finite number, but is {value!r}."
    return f"must be {_format_type(annotation)}, but is {value!r}."


def _format_type(annotation: Any) -> str:
    """A type in words: `int | None` is `int or null`."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _format_type(arguments[0])
    if origin is Literal:
        return " or ".join(repr(argument) for argument in arguments)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(_format_type(argument) for argument in arguments))
    if origin is not None and issubclass(origin, Sequence) and arguments:
        return f"a list of {_format_type(arguments[0])}"
    if annotation is type(None):
        return "null"
    return str(getattr(annotation, "__name__", annotation))
