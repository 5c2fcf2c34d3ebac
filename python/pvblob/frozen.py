"""Frozen classes of named fields, as `dataclass(frozen=True, slots=True)` makes them, for what every guest imports.

`dataclass` imports a dozen modules and compiles six methods for each class: a program that reads one blob would wait
longer for that than for the blob. Here all classes share their methods, which are written out below. Imports nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar
    from typing import dataclass_transform as dataclass_transform

    T = TypeVar("T")
else:

    def dataclass_transform(**_):
        """Tell a type checker what the decorator does; there is none."""
        return lambda decorator: decorator


MISSING: Any = object()
"""The default of a field that has none."""


@dataclass_transform(frozen_default=True)
def frozen(cls: type[T]) -> type[T]:
    """Make *cls* a frozen, slotted class whose fields are its annotations; what they are set to is their default.

    Instances compare, hash, print and pickle by their fields; a method that *cls* has itself stays. A default is shared
    by all, so it must be immutable.
    """
    return with_fields(cls, {name: cls.__dict__.get(name, MISSING) for name in annotated(cls)})


def annotated(cls: type) -> tuple[str, ...]:
    """Return the names annotated in the body of *cls*, in order."""
    return tuple(cls.__dict__.get("__annotations__", ()))  # noqa: RUF063  # inspect is a dozen modules


def with_fields(cls: type[T], defaults: dict[str, Any]) -> type[T]:
    """Return *cls* anew, with the fields of *defaults*: name → its default, or MISSING."""
    left_out = {*defaults, "__dict__", "__weakref__"}
    namespace = {name: value for name, value in cls.__dict__.items() if name not in left_out}
    names = tuple(defaults)
    namespace = _METHODS | namespace | {"__slots__": names, "__match_args__": names}
    metaclass: Any = type(cls)
    made = metaclass(cls.__name__, cls.__bases__, namespace)
    made.__qualname__ = cls.__qualname__
    _DEFAULTS[made] = defaults
    return made  # type: ignore[no-any-return]


def made_of(cls: type[T], values: dict[str, Any]) -> T:
    """Return a *cls* of *values*, which name every field."""
    made = object.__new__(cls)
    for name, value in values.items():
        object.__setattr__(made, name, value)
    return made


def replace(value: T, **changes: Any) -> T:
    """Return a copy of a `frozen` *value* with some fields changed. Raises TypeError for a field it does not have."""
    names: tuple[str, ...] = value.__match_args__  # type: ignore[attr-defined]
    return type(value)(**{name: getattr(value, name) for name in names} | changes)


_DEFAULTS: dict[type, dict[str, Any]] = {}


def _init(self: Any, *values: Any, **named: Any) -> None:
    kind = type(self)
    defaults = _DEFAULTS[kind]
    given = dict(zip(defaults, values)) | named  # noqa: B905  # judged below
    if len(values) > len(defaults) or len(given) != len(values) + len(named) or not given.keys() <= defaults.keys():
        raise TypeError(f"{kind.__name__} takes {', '.join(defaults) or 'nothing'}, each once")
    for name, default in defaults.items():
        value = given.get(name, default)
        if value is MISSING:
            raise TypeError(f"{kind.__name__} needs {name}")
        object.__setattr__(self, name, value)


def _values(value: Any) -> tuple[Any, ...]:
    return tuple([getattr(value, name) for name in value.__match_args__])


def _repr(self: Any) -> str:
    pairs = zip(self.__match_args__, _values(self), strict=True)
    return f"{type(self).__qualname__}({', '.join(f'{name}={value!r}' for name, value in pairs)})"


def _eq(self: object, other: object) -> bool:
    return _values(self) == _values(other) if type(other) is type(self) else NotImplemented


def _hash(self: object) -> int:
    return hash(_values(self))


def _reduce(self: object) -> tuple[type, tuple[Any, ...]]:
    return type(self), _values(self)


def _refuse_to_setattr(self: object, name: str, value: object) -> None:
    raise AttributeError(f"{type(self).__name__}.{name} never changes")


def _refuse_to_delattr(self: object, name: str) -> None:
    raise AttributeError(f"{type(self).__name__}.{name} never changes")


_METHODS: dict[str, Callable[..., Any]] = {
    "__init__": _init,
    "__repr__": _repr,
    "__eq__": _eq,
    "__hash__": _hash,
    "__reduce__": _reduce,
    "__setattr__": _refuse_to_setattr,
    "__delattr__": _refuse_to_delattr,
}
