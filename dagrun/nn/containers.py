"""Modules that hold other modules or parameters, in order or by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from operator import index as as_index
from typing import Any, TypeVar, overload

from dagrun.array import Array
from dagrun.nn.module import Module, Parameter

Self = TypeVar("Self", bound="_Listed")


class _Listed(Module):
    """Modules named "0", "1", ... in order."""

    def _put(self, modules: Iterable[Module]) -> None:
        for name in list(self._modules):
            del self._modules[name]
        for number, module in enumerate(modules):
            self.register_module(str(number), module)

    def _all(self) -> list[Module]:
        return [module for module in self._modules.values() if module is not None]

    def _name(self, index: int) -> str:
        names = list(self._modules)
        try:
            return names[as_index(index)]
        except IndexError:
            raise IndexError(f"{type(self).__name__} has {len(names)} modules, no number {index}") from None

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Module]:
        return iter(self._all())

    @overload
    def __getitem__(self, index: int) -> Module: ...
    @overload
    def __getitem__(self: Self, index: slice) -> Self: ...
    def __getitem__(self, index: int | slice) -> Module:
        if isinstance(index, slice):
            part = type(self)()
            part._put(self._all()[index])
            return part
        module = self._modules[self._name(index)]
        assert module is not None
        return module

    def __setitem__(self, index: int, module: Module) -> None:
        self.register_module(self._name(index), module)

    def __delitem__(self, index: int | slice) -> None:
        kept = self._all()
        del kept[index]
        self._put(kept)

    def append(self: Self, module: Module) -> Self:
        """Adds a module at the end."""
        self.register_module(str(len(self)), module)
        return self

    def extend(self: Self, modules: Iterable[Module]) -> Self:
        """Adds modules at the end."""
        for module in modules:
            self.append(module)
        return self

    def insert(self: Self, index: int, module: Module) -> Self:
        """Adds a module before the one of this number."""
        modules = self._all()
        modules.insert(index, module)
        self._put(modules)
        return self


class Sequential(_Listed):
    """Modules called one after the other, each with the result of the one before.

    Takes modules, or one mapping of names to modules.

        >>> import dagrun as dr
        >>> dr.nn.Sequential(dr.nn.Linear(4, 3), dr.nn.ReLU())(dr.zeros((2, 4), dtype="float32")).shape
        (2, 3)
    """

    def __init__(self, *modules: Any) -> None:
        super().__init__()
        if len(modules) == 1 and isinstance(modules[0], Mapping):
            for name, module in modules[0].items():
                self.register_module(name, module)
        else:
            self._put(modules)

    def forward(self, x: Any) -> Any:
        for module in self:
            x = module(x)
        return x


class ModuleList(_Listed):
    """A list of modules; it has no forward of its own."""

    def __init__(self, modules: Iterable[Module] | None = None) -> None:
        super().__init__()
        self._put(modules or ())


class ModuleDict(Module):
    """Modules by name; it has no forward of its own."""

    def __init__(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]] | None = None) -> None:
        super().__init__()
        self.update(modules or ())

    def __getitem__(self, name: str) -> Module:
        module = self._modules[name]
        assert module is not None
        return module

    def __setitem__(self, name: str, module: Module) -> None:
        self.register_module(name, module)

    def __delitem__(self, name: str) -> None:
        self._forget(name)

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __contains__(self, name: object) -> bool:
        return name in self._modules

    def keys(self) -> Iterable[str]:
        """The names."""
        return self._modules.keys()

    def values(self) -> Iterable[Module]:
        """The modules."""
        return self._modules.values()

    def items(self) -> Iterable[tuple[str, Module]]:
        """Names and modules."""
        return self._modules.items()

    def update(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]]) -> None:
        """Adds modules, or replaces those of the same names."""
        for name, module in dict(modules).items():
            self.register_module(name, module)


class _Parameters(Module):
    """Parameters by name; what asks for no gradient becomes one."""

    def _set(self, name: str, value: Any) -> None:
        ready = isinstance(value, Array) and value.requires_grad and value.is_leaf
        self.register_parameter(name, value if ready else Parameter(value))

    def __len__(self) -> int:
        return len(self._parameters)

    def extra_repr(self) -> str:
        return "\n".join(f"({name}): {p.dtype}{p.shape} on {p.device}" for name, p in self._parameters.items())


class ParameterList(_Parameters):
    """Parameters named "0", "1", ... in order.

    >>> import dagrun as dr
    >>> weights = dr.nn.ParameterList([dr.ones(2), dr.ones(3)])
    >>> [name for name, _ in weights.named_parameters()], weights[-1].shape
    (['0', '1'], (3,))
    """

    def __init__(self, values: Iterable[Any] | None = None) -> None:
        super().__init__()
        self.extend(values or ())

    def append(self, value: Any) -> ParameterList:
        """Adds a parameter; anything but an array becomes one."""
        self._set(str(len(self)), value)
        return self

    def extend(self, values: Iterable[Any]) -> ParameterList:
        """Adds parameters."""
        for value in values:
            self.append(value)
        return self

    __iadd__ = extend

    def __iter__(self) -> Iterator[Array]:
        return iter(self._parameters.values())

    @overload
    def __getitem__(self, index: int) -> Array: ...
    @overload
    def __getitem__(self, index: slice) -> ParameterList: ...
    def __getitem__(self, index: int | slice) -> Array | ParameterList:
        found: Any = list(self._parameters.values())[index]
        return ParameterList(found) if isinstance(index, slice) else found

    def __setitem__(self, index: int, value: Any) -> None:
        self._set(list(self._parameters)[index], value)


class ParameterDict(_Parameters):
    """Parameters by name, in the order in which they were added.

    >>> import dagrun as dr
    >>> weights = dr.nn.ParameterDict({"left": dr.ones(2)})
    >>> weights["right"] = dr.ones(3)
    >>> list(weights), weights["right"].requires_grad
    (['left', 'right'], True)
    """

    def __init__(self, parameters: Mapping[str, Any] | Iterable[Any] | None = None) -> None:
        super().__init__()
        self.update(parameters or ())

    def __getitem__(self, name: str) -> Array:
        parameter: Array = self._parameters[name]
        return parameter

    def __setitem__(self, name: str, value: Any) -> None:
        self._set(name, value)

    def __delitem__(self, name: str) -> None:
        del self._parameters[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._parameters)

    def __contains__(self, name: object) -> bool:
        return name in self._parameters

    def keys(self) -> Iterable[str]:
        """The names."""
        return self._parameters.keys()

    def values(self) -> Iterable[Array]:
        """The parameters."""
        return self._parameters.values()

    def items(self) -> Iterable[tuple[str, Array]]:
        """Names and parameters."""
        return self._parameters.items()

    def get(self, name: str, default: Any = None) -> Any:
        """The parameter of a name, or the default where there is none."""
        return self._parameters.get(name, default)

    def pop(self, name: str) -> Array:
        """Takes a parameter out."""
        parameter: Array = self._parameters.pop(name)
        return parameter

    def update(self, parameters: Mapping[str, Any] | Iterable[Any]) -> None:
        """Adds parameters, or replaces those of the same names."""
        for name, value in dict(parameters).items():
            self._set(name, value)
