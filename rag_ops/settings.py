"""Settings that stand in one place: a field of a dataclass with its default, its help text and its check.

`setting` declares such a field, `check` is called by the dataclass when it is made, so that a notebook is refused the
same nonsense as the command line, and `pipelines.console.options` makes the flags of a command from the declarations.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

from rag_ops.errors import InputError

_KEY = "setting"


@dataclasses.dataclass(frozen=True)
class Setting:
    """The declaration of a setting, apart from its default.

    Attributes:
        help: one line for `--help`, without the default.
        flag: name on the command line, if it differs from the field's.
        also: other names of the flag.
        group: heading under which `--help` lists it; None for the first one.
        metavar: what `--help` calls the value; what is called URL, DIR or MODEL is read, unless it is written.
        choices: the only values.
        at_least: smallest value.
        at_most: largest value; by default a thousand million, for no number here means more.
        within: (low, high): over low, up to and including high.
        writes: whether it names what is written.
        positional: whether the command line gives it without a flag.
        finite: whether infinities and NaN are refused; off if the dataclass has an error line of its own for them.
        memory: whether a lower value takes less memory.
    """

    help: str
    flag: str | None = None
    also: tuple[str, ...] = ()
    group: str | None = None
    metavar: str | None = None
    choices: tuple[Any, ...] = ()
    at_least: int | None = None
    at_most: int = 10**9
    within: tuple[float, float] | None = None
    writes: bool = False
    positional: bool = False
    finite: bool = True
    memory: bool = False

    @property
    def reads(self) -> str:
        """What the value names to be read: "files" (one, a glob or a directory of them), a "directory", or nothing."""
        return (
            ""
            if self.writes
            else {"URL": "files", "DIR": "directory", "MODEL": "directory"}.get(self.metavar or "", "")
        )


def setting(default: Any, help: str, **declared: Any) -> Any:
    """Declares a dataclass field that is a setting.

    Args:
        default: default value; `...` for a setting that must be given.
        help: one line for `--help`.
        declared: the other attributes of `Setting`.
    """
    metadata = {_KEY: Setting(help, **declared)}
    if default is ...:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def same_setting(cls: type, name: str) -> Any:
    """Declares a dataclass field that is the setting of another dataclass: the same default, help and check.

    Args:
        cls: the other dataclass.
        name: the field's name there.
    """
    field = next(field for field in dataclasses.fields(cls) if field.name == name)
    return dataclasses.field(default=field.default, metadata=field.metadata)


def declared(cls: type) -> dict[str, Setting]:
    """The settings of a dataclass by the names of their fields, in order; fields declared otherwise are left out."""
    return {field.name: field.metadata[_KEY] for field in dataclasses.fields(cls) if _KEY in field.metadata}


@functools.cache
def hints_of(cls: type) -> dict[str, Any]:
    """The types of a dataclass's fields by name; not to be changed."""
    return typing.get_type_hints(cls)


def kind_of(cls: type, name: str) -> tuple[type, bool]:
    """The type of a setting's value, and whether it holds several of them.

    >>> @dataclasses.dataclass
    ... class Example:
    ...     words: Sequence[str] = ()
    ...     count: int | None = None
    >>> kind_of(Example, "words"), kind_of(Example, "count")
    ((<class 'str'>, True), (<class 'int'>, False))
    """
    return _kind_of_hint(hints_of(cls)[name])


def _kind_of_hint(hint: Any) -> tuple[type, bool]:
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        hint = next(part for part in typing.get_args(hint) if part is not types.NoneType)
    if arguments := typing.get_args(hint):
        return arguments[0], True
    return hint, False


def memory_flags(cls: type) -> list[str]:
    """The flags of a dataclass of settings, and of those that are its fields, of which lower values take less memory.

    >>> @dataclasses.dataclass
    ... class Example:
    ...     n_docs: int = setting(5, "passages", memory=True)
    ...     seed: int = setting(1, "of the order")
    >>> memory_flags(Example)
    ['--n_docs']
    """
    flags, hints, settings = list[str](), hints_of(cls), declared(cls)
    for field in dataclasses.fields(cls):
        if field.name in settings:
            flags += ["--" + (settings[field.name].flag or field.name)] * settings[field.name].memory
        elif dataclasses.is_dataclass(hint := hints[field.name]):
            flags += memory_flags(typing.cast(type, hint))
    return flags


def check(settings: Any) -> None:
    """Checks every setting of a dataclass instance against its declaration. Only one that may be None is not given so.

    Raises:
        InputError: a value is out of range, not a number or not one of the choices; the line names the flag.
    """
    cls: type = type(settings)
    hints = hints_of(cls)
    for name, one in declared(cls).items():
        value, kind = getattr(settings, name), _kind_of_hint(hints[name])[0]
        many = isinstance(value, Sequence) and not isinstance(value, str)
        for each in value if many else [value]:
            if each is not None or types.NoneType not in typing.get_args(hints[name]):
                _check_value("--" + (one.flag or name), each, kind, one)


def _check_value(flag: str, value: Any, kind: type, one: Setting) -> None:
    if one.choices and value not in one.choices:
        raise InputError(f"{flag} is unknown", value=value, expected=" or ".join(map(str, one.choices)))
    if kind is int and (not isinstance(value, Integral) or isinstance(value, bool)):
        raise InputError(f"{flag} is no whole number", value=value, expected="a whole number")
    if one.at_least is not None and value < one.at_least:
        wrong = "negative" if one.at_least == 0 else "too small"
        raise InputError(f"{flag} is {wrong}", value=value, expected=f"{one.at_least} or more")
    if kind is int and value > one.at_most:
        raise InputError(f"{flag} is too large", value=value, expected=f"{one.at_most:,} or less")
    if (one.reads or one.writes) and (not value.strip() or "\0" in value):
        wrong = "has a NUL character" if value.strip() else "is empty"
        raise InputError(f"{flag} {wrong}", value=value, expected="a path or a URL")
    if one.within is not None and not one.within[0] < value <= one.within[1]:  # nor is NaN
        low, high = one.within
        raise InputError(f"{flag} is out of range", value=value, expected=f"over {low:g}, to {high:g}")
    if kind is float and one.finite and not math.isfinite(value):
        raise InputError(f"{flag} is not finite", value=value, expected="a number, such as 1")


def make(cls: type, given: Mapping[str, Any], **fixed: Any) -> Any:
    """Makes a dataclass of settings from values by flag; fields that are such dataclasses are made likewise.

    Args:
        cls: dataclass of settings.
        given: values by the flags' names; flags of other dataclasses are passed over.
        fixed: values by the fields' names, which overrule.
    """
    values: dict[str, Any] = {}
    settings = declared(cls)
    hints = hints_of(cls)
    for field in dataclasses.fields(cls):
        if field.name in fixed:
            values[field.name] = fixed[field.name]
        elif field.name in settings:
            flag = settings[field.name].flag or field.name
            if flag in given:
                values[field.name] = given[flag]
        elif dataclasses.is_dataclass(hints[field.name]):
            values[field.name] = make(typing.cast(type, hints[field.name]), given)
    return cls(**values)
