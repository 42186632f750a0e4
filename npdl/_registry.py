"""Look-up by name, and configurations of JSON types that go back through the same look-up."""

from __future__ import annotations

import contextlib
import functools
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np

T = TypeVar("T")

#: Objects that users have registered, and objects passed to a call that reads a configuration.
_registered: dict[str, Any] = {}
_passed: ContextVar[Mapping[str, Any]] = ContextVar("_passed", default=MappingProxyType({}))
_registries: list[Registry] = []


def register_custom(name: str, cls: Any) -> None:
    """Register a user's class under a name for all configurations."""
    _registered[name] = cls


@contextlib.contextmanager
def custom_objects(objects: Mapping[str, Any] | None) -> Iterator[None]:
    """Within the block, look up names in configurations among these objects first."""
    token = _passed.set({**_passed.get(), **(objects or {})})
    try:
        yield
    finally:
        _passed.reset(token)


def custom_object(name: str) -> Any:
    """Return the object that the user passed or registered under a name.

    Raises
    ------
    ValueError
        If there is none.
    """
    found = _passed.get().get(name, _registered.get(name))
    if found is None:
        raise ValueError(f"Unknown name {name!r}. Pass it in custom_objects={{{name!r}: ...}}.")
    return found


def config_name(value: Any) -> str:
    """The name of an object's class, or of a function, in configurations.

    Raises
    ------
    ValueError
        If this is the name of another class, one of npdl.
    """
    cls = value if inspect.isfunction(value) else type(value)
    name = next((name for name, known in _registered.items() if known is cls), cls.__name__)
    if any(isinstance(value, r.base) and r.knows(name) not in (None, cls) for r in _registries):
        rule = "A class of your own needs a name that npdl does not use, see npdl.saving.register"
        raise ValueError(f"{rule}. Received: {name!r}")
    return name


#: Where a word begins within a class name: "Soft|Plus", "Batch|LSTM", "Top|K|Accuracy".
_WORDS = (
    r"(?<=[a-z0-9])(?=[A-Z][a-z]|[A-Z]{3})"
    r"|(?<=[a-z])(?=[A-Z][A-Z][a-z])|(?<=[a-z][A-Z])(?=[A-Z][a-z])"  # a word of one letter
)


def snake_case(name: str) -> str:
    """Return a class name in snake case: "SoftPlus" as "soft_plus", "BatchLSTM" as "batch_lstm"."""
    return re.sub(_WORDS, "_", name).lower()


def _key(name: str) -> str:
    return name.replace("_", "").lower()


class Registry(Generic[T]):
    """The classes of one kind, found by name.

    Parameters
    ----------
    kind : str
        What messages call it, such as "activation".
    base : type
        The base class of the kind.
    """

    def __init__(self, kind: str, base: type[T]) -> None:
        self.kind = kind
        self.base = base
        self._classes: dict[str, type[T]] = {}
        self._names: list[tuple[str, tuple[str, ...]]] = []  # of a class, and its aliases
        _registries.append(self)

    @property
    def names(self) -> list[str]:
        """The names to list in messages: snake case and aliases, in order of registration."""
        return [n for name, aliases in self._names for n in (snake_case(name), *aliases)]

    def register(self, *aliases: str) -> Callable[[type[T]], type[T]]:
        """Return a class decorator that makes a class known under its name and `aliases`."""

        def decorate(cls: type[T]) -> type[T]:
            for name in (cls.__name__, *aliases):
                self._classes[_key(name)] = cls
            self._names.append((cls.__name__, aliases))
            return cls

        return decorate

    def get(self, identifier: Any, **defaults: Any) -> T:
        """Return an instance of the kind.

        Parameters
        ----------
        identifier : instance, class, str or dict
            An instance is returned as it is. Names know neither case nor underscores. A dict holds
            the name under "name", and the arguments.
        **defaults
            Arguments of the constructor, where an instance is made.

        Raises
        ------
        ValueError
            If the name is unknown; the message lists the valid ones.
        TypeError
            If `identifier` is of another type.
        """
        if isinstance(identifier, self.base):
            return identifier
        if isinstance(identifier, type) and issubclass(identifier, self.base):
            return identifier(**defaults)
        if isinstance(identifier, str):
            return self.find(identifier)(**defaults)
        if isinstance(identifier, dict) and isinstance(identifier.get("name"), str):
            arguments = {k: v for k, v in identifier.items() if k != "name"}
            return self.find(identifier["name"])(**{**defaults, **arguments})
        raise TypeError(
            f"The {self.kind} must be a name, an instance or subclass of {self.base.__name__}, "
            f"or a dict with a 'name'. Received: {identifier!r}"
        )

    def knows(self, name: str) -> type[T] | None:
        """The class of npdl of this name; None if there is none."""
        return self._classes.get(_key(name))

    def _may_be(self, found: Any) -> bool:
        """Whether a user's object can be of this kind: true if it is of no other kind."""
        if found is None or not isinstance(found, type) or issubclass(found, self.base):
            return found is not None
        return not any(issubclass(found, other.base) for other in _registries)

    def find(self, name: str) -> Any:
        """Return the class of a name, npdl's or a custom one of this kind.

        Raises
        ------
        ValueError
            If there is none; the message lists the valid names.
        """
        passed = _passed.get().get(name)
        found = passed if self._may_be(passed) else None
        found = found or self.knows(name)
        if found is None and self._may_be(_registered.get(name)):
            found = _registered[name]
        if found is None:
            names = ", ".join(self.names)
            raise ValueError(f"Unknown {self.kind} {name!r}. Valid names: {names}.")
        return found


class Configurable:
    """Mixin: an object that keeps each argument of its constructor under the argument's name."""

    #: Former names of hooks that subclasses define, which still do.
    _former: ClassVar[Mapping[str, str]] = MappingProxyType({})

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for old, new in cls._former.items():
            if new in vars(cls):
                setattr(cls, old, vars(cls)[new])
            elif old in vars(cls):
                setattr(cls, new, vars(cls)[old])

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor as JSON types.

        Returns
        -------
        dict
            Arrays and tuples become lists, nested objects their name or a dict with it.
        """
        config = {}
        for name in constructor_arguments(type(self)):
            try:
                value = getattr(self, name)
            except AttributeError:
                raise TypeError(
                    f"{type(self).__name__} must keep its argument {name!r} as an attribute of "
                    "that name, or define get_config()."
                ) from None
            config[name] = to_json_type(value)
        return config

    def nested_config(self) -> Any:
        """Return the entry for this object in the configuration of another one."""
        return _nested(self)

    def __repr__(self) -> str:
        try:
            config = self.get_config()
            arguments = constructor_arguments(type(self))
        except (TypeError, ValueError, AttributeError):
            return f"<{type(self).__name__}>"
        given = (
            f"{name}={_short(value)}"
            for name, value in config.items()
            if name not in arguments or not _is_default(value, arguments[name].default)
        )
        return f"{type(self).__name__}({', '.join(given)})"


def _is_default(value: Any, default: Any) -> bool:
    if isinstance(value, str) and isinstance(default, str):
        return _key(value) == _key(default)
    if isinstance(default, tuple):
        default = [*default]
    if isinstance(value, list) and isinstance(default, int) and not isinstance(default, bool):
        return value == [default] * len(value)
    return (type(value) is type(default) and value == default) or value is default


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def constructor_arguments(cls: type) -> dict[str, inspect.Parameter]:
    """Return the named arguments of a constructor; ``**kwargs`` means those of the base class."""
    return _constructor(cls)[0]


def takes_any(cls: type) -> bool:
    """Whether a constructor takes keyword arguments of any name."""
    return _constructor(cls)[1]


@functools.cache
def _constructor(cls: type) -> tuple[dict[str, inspect.Parameter], bool]:
    found: dict[str, inspect.Parameter] = {}
    open_ended = False
    for base in cls.__mro__:
        if "__init__" not in vars(base) or base is object:
            continue
        kinds = set()
        for parameter in list(inspect.signature(vars(base)["__init__"]).parameters.values())[1:]:
            kinds.add(parameter.kind)
            if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                found.setdefault(parameter.name, parameter)
        open_ended = inspect.Parameter.VAR_KEYWORD in kinds
        if not open_ended:
            break
    return found, open_ended


def to_json_type(value: Any) -> Any:
    """Return `value` made of JSON types only.

    Raises
    ------
    TypeError
        If there is no such form.
    """
    if isinstance(value, Configurable):
        return value.nested_config()
    if hasattr(value, "get_config") and not isinstance(value, type):
        return _nested(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if inspect.isfunction(value) and value.__name__.isidentifier():  # no lambda
        return config_name(value)
    if isinstance(value, tuple | list):
        return [to_json_type(v) for v in value]
    if isinstance(value, dict):
        return {str(k): to_json_type(v) for k, v in value.items()}
    raise TypeError(f"A configuration can't hold a {type(value).__name__}. Received: {value!r}")


def function_name(function: Any, kind: str) -> str:
    """The name of a function in configurations.

    Raises
    ------
    TypeError
        If it has none by which `custom_objects` could find it.
    """
    name = getattr(function, "__name__", "")
    if not inspect.isfunction(function) or not name.isidentifier():
        raise TypeError(
            f"The {kind} {name or function!r} can't be saved: a configuration can't hold a "
            "function without a name. Define it with `def`, or save the weights only. "
            f"Received: {function!r}"
        )
    return config_name(function)


def _nested(value: Any) -> str | dict[str, Any]:
    """The name of an object that is all defaults, else a dict of its name and its arguments."""
    name = config_name(value)
    config = value.get_config()
    arguments = constructor_arguments(type(value))
    if all(k in arguments and v == arguments[k].default for k, v in config.items()):
        return name
    return {"name": name, **config}
