"""Modules: trees of parameters, buffers and further modules, with a `forward`. PyTorch's names and behaviour."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import Any, NamedTuple, TypeVar

import numpy as np

from dagrun.array import Array, asarray, leaf
from dagrun.autodiff import no_grad
from dagrun.core import scopes

Self = TypeVar("Self", bound="Module")


def Parameter(data: Any, requires_grad: bool = True) -> Array:
    """An array whose gradients are gathered: float32, unless the data is a floating array already.

    >>> import dagrun as dr
    >>> dr.nn.Parameter([1, 2]).dtype
    dtype('float32')
    """
    if isinstance(data, Array):
        data = data.detach()
    floating = isinstance(data, (Array, np.ndarray)) and data.dtype.kind == "f"
    return leaf(asarray(data, dtype=None if floating else np.float32), requires_grad)


class Incompatible(NamedTuple):
    """The keys in which a state and a module differ."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class Handle:
    """Takes a forward hook away again with `remove()`."""

    def __init__(self, hooks: dict[int, Any]) -> None:
        self._hooks = hooks
        self._number = max(hooks, default=0) + 1

    def put(self, hook: Any, prepend: bool = False) -> Handle:
        """Adds the hook, after all others or before them."""
        rest = dict(self._hooks) if prepend else {}
        if prepend:
            self._hooks.clear()
        self._hooks[self._number] = hook
        self._hooks.update(rest)
        return self

    def remove(self) -> None:
        """The hook is no longer called."""
        self._hooks.pop(self._number, None)


class _WithOptions(NamedTuple):
    """A hook that is told the named arguments of the call, too."""

    function: Callable[..., Any]


# ---- named scopes


class _Scope(threading.local):
    """The modules whose `forward` runs in this thread, outermost first."""

    def __init__(self) -> None:
        self.modules: list[Module] = []


_scope = _Scope()
_changes = 0  # counts registrations of modules anywhere: paths found before the last one may be stale


def current_path() -> str:
    """The name of the module whose `forward` runs in this thread: "LeNet5.features.0"; "" outside of modules.

    It starts with the class of the outermost module; the rest is as in `named_modules`. Modules only push themselves on
    a stack when they are called; the name is worked out here.

        >>> import dagrun as dr
        >>> class Show(dr.nn.Module):
        ...     def forward(self, x):
        ...         print(dr.nn.current_path())
        ...         return x
        >>> _ = dr.nn.Sequential(Show(), Show())(dr.zeros(1))
        Sequential.0
        Sequential.1
    """
    modules = _scope.modules
    if not modules:
        return ""
    root = modules[0]
    known = root.__dict__.get("_paths")
    if known is None or known[:2] != (_changes, id(root)):  # the id: a copy of a module copies this, too
        known = (_changes, id(root), {id(module): name for name, module in root.named_modules()})
        root.__dict__["_paths"] = known
    path = known[2].get(id(modules[-1]), type(modules[-1]).__name__)
    return f"{type(root).__name__}.{path}" if path else type(root).__name__


def mark_backward(result: Any, scope: scopes.Scope) -> None:
    """While a graph is drawn: lets the gradient of a result mark where the backward pass of what made it begins."""
    marks = scopes.marks()
    if marks is None:
        return

    def begin(_: Array) -> None:
        scopes.mark(scope)

    for array in result if isinstance(result, (tuple, list)) else (result,):
        # What a container returns is mostly the result of its last module, which comes first here.
        if isinstance(array, Array) and array.requires_grad and not any(array is known for known in marks.hooked):
            marks.hooked.append(array)
            array.register_hook(begin)


class Module:
    """The base of layers and models: define `__init__` and `forward`, call the module like a function.

    Attributes that are modules are found by name, and so are arrays that ask for gradients (parameters; a module counts
    them as such from then on, also when they are frozen). Other arrays are kept in the state by `register_buffer`.

        >>> import dagrun as dr
        >>> class Scale(dr.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.factor = dr.nn.Parameter([2.0])
        ...     def forward(self, x):
        ...         return self.factor * x
        >>> scale = Scale()
        >>> scale(3.0), [name for name, _ in scale.named_parameters()]
        (array([6.], dtype=float32, grad_fn=<multiply>), ['factor'])
    """

    training: bool

    def __init__(self) -> None:
        own = self.__dict__
        own["training"] = True
        own["_parameters"] = {}
        own["_buffers"] = {}
        own["_modules"] = {}
        own["_transient"] = set()  # names of buffers that are not part of the state
        own["_hooks"] = {}
        own["_pre_hooks"] = {}

    def forward(self, *inputs: Any) -> Any:
        """What a call computes; every module defines its own."""
        raise NotImplementedError(f"{type(self).__name__} defines no forward")

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        modules = _scope.modules
        modules.append(self)
        outer = None if scopes.marks() is None else scopes.mark(scopes.Scope(current_path(), type(self).__name__))
        try:
            if self._pre_hooks:
                for hook in tuple(self._pre_hooks.values()):
                    if isinstance(hook, _WithOptions):
                        changed = hook.function(self, inputs, options)
                        inputs, options = (inputs, options) if changed is None else changed
                        continue
                    changed = hook(self, inputs)
                    if changed is not None:
                        inputs = changed if isinstance(changed, tuple) else (changed,)
            result = self.forward(*inputs, **options)
            if self._hooks:
                for hook in tuple(self._hooks.values()):
                    if isinstance(hook, _WithOptions):
                        changed = hook.function(self, inputs, options, result)
                    else:
                        changed = hook(self, inputs, result)
                    result = result if changed is None else changed
            if outer is not None:
                mark_backward(result, scopes.Scope(current_path(), type(self).__name__, True))
            return result
        finally:
            modules.pop()
            if outer is not None:
                scopes.mark(outer)

    # ---- attributes

    def __setattr__(self, name: str, value: Any) -> None:
        own = self.__dict__
        parameters = own.get("_parameters")
        if isinstance(value, Module):
            self._started(name)
            self._forget(name, keep="_modules")
            self.register_module(name, value)
        elif isinstance(value, Array) and value.requires_grad and value.is_leaf and name not in own.get("_buffers", ()):
            self._started(name)
            self._forget(name, keep="_parameters")
            self.register_parameter(name, value)
        elif parameters is not None and name in parameters:
            if value is not None and not isinstance(value, Array):
                raise TypeError(f"{type(self).__name__}.{name}: a {type(value).__name__} is no parameter, expected an "
                                "array or None")  # fmt: skip
            parameters[name] = value
        elif parameters is not None and name in own["_buffers"]:
            if value is not None and not isinstance(value, Array):
                raise TypeError(f"{type(self).__name__}.{name}: a {type(value).__name__} is no buffer, expected an "
                                "array or None")  # fmt: skip
            own["_buffers"][name] = value
        elif parameters is not None and name in own["_modules"]:
            if value is not None:
                raise TypeError(f"{type(self).__name__}.{name}: a {type(value).__name__} is no module")
            own["_modules"][name] = None
        else:
            object.__setattr__(self, name, value)

    def __getattr__(self, name: str) -> Any:  # called only for what is no ordinary attribute
        own = self.__dict__
        for kind in ("_parameters", "_buffers", "_modules"):
            if kind in own and name in own[kind]:
                return own[kind][name]
        raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}")

    def __delattr__(self, name: str) -> None:
        for kind in ("_parameters", "_buffers", "_modules"):
            if name in self.__dict__[kind]:
                self._forget(name)
                return
        object.__delattr__(self, name)

    def __dir__(self) -> list[str]:
        return sorted({*object.__dir__(self), *self._parameters, *self._buffers, *self._modules})

    def _started(self, name: str) -> None:
        if "_parameters" not in self.__dict__:
            raise AttributeError(
                f"{type(self).__name__}.{name} is set before Module.__init__(): call super().__init__()"
            )

    def _forget(self, name: str, keep: str = "") -> None:
        """Drops a name from every register but one, and from the ordinary attributes."""
        global _changes
        for kind in ("_parameters", "_buffers", "_modules"):
            if kind != keep:
                self.__dict__[kind].pop(name, None)
        self.__dict__.pop(name, None)
        self._transient.discard(name)
        _changes += 1

    def _free_name(self, name: str, kind: str) -> None:
        self._started(name)
        if not name or "." in name:
            raise KeyError(f"{type(self).__name__}: {name!r} is no name of a {kind}: it must be a word without dots")
        others = ("_parameters", "_buffers", "_modules")
        if name in self.__dict__ or any(name in self.__dict__[k] for k in others if k != f"_{kind}s"):
            raise KeyError(f"{type(self).__name__}: attribute {name!r} exists already")

    def register_parameter(self, name: str, param: Array | None) -> None:
        """Adds a parameter; None reserves the name for one that is absent."""
        self._free_name(name, "parameter")
        if param is not None and not isinstance(param, Array):
            raise TypeError(f"parameter {name!r} is a {type(param).__name__}, expected an array or None")
        if param is not None and not param.is_leaf:
            raise ValueError(f"parameter {name!r} was computed from other arrays: use x.detach()")
        self._parameters[name] = param

    def register_buffer(self, name: str, tensor: Array | None, persistent: bool = True) -> None:
        """Adds an array that is no parameter; it is part of the state unless `persistent` is False."""
        self._free_name(name, "buffer")
        if tensor is not None and not isinstance(tensor, Array):
            raise TypeError(f"buffer {name!r} is a {type(tensor).__name__}, expected an array or None")
        self._buffers[name] = tensor
        (self._transient.discard if persistent else self._transient.add)(name)

    def register_module(self, name: str, module: Module | None) -> None:
        """Adds a module."""
        global _changes
        self._free_name(name, "module")
        if module is not None and not isinstance(module, Module):
            raise TypeError(f"module {name!r} is a {type(module).__name__}, expected a Module or None")
        self._modules[name] = module
        _changes += 1

    add_module = register_module

    # ---- walking the tree

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """The modules directly below, each once."""
        seen: set[int] = set()
        for name, module in self._modules.items():
            if module is not None and id(module) not in seen:
                seen.add(id(module))
                yield name, module

    def children(self) -> Iterator[Module]:
        """The modules directly below, each once."""
        return (module for _, module in self.named_children())

    def named_modules(
        self, memo: set[Any] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Module]]:
        """This module under the name `prefix`, and all below, before what is below it.

        Each comes once, or, without `remove_duplicate`, once for each place that it is in.
        """
        memo = set() if memo is None else memo
        if self in memo:
            return
        if remove_duplicate:
            memo.add(self)
        yield prefix, self
        for name, module in self._modules.items():
            if module is not None:
                yield from module.named_modules(memo, f"{prefix}.{name}" if prefix else name, remove_duplicate)

    def modules(self, remove_duplicate: bool = True) -> Iterator[Module]:
        """This module and all below, each once or once for each place that it is in."""
        return (module for _, module in self.named_modules(remove_duplicate=remove_duplicate))

    def _named(self, kind: str, prefix: str, recurse: bool, duplicates: bool) -> Iterator[tuple[str, Array]]:
        seen: set[int] = set()
        for path, module in self.named_modules(prefix=prefix, remove_duplicate=not duplicates):
            if not recurse and module is not self:
                continue
            for name, array in module.__dict__[kind].items():
                if array is not None and (duplicates or id(array) not in seen):
                    seen.add(id(array))
                    yield f"{path}.{name}" if path else name, array

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Array]]:
        """The parameters with their names; one that is in several places comes once, under its first name."""
        return self._named("_parameters", prefix, recurse, not remove_duplicate)

    def parameters(self, recurse: bool = True) -> Iterator[Array]:
        """The parameters, each once."""
        return (array for _, array in self.named_parameters(recurse=recurse))

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Array]]:
        """The buffers with their names."""
        return self._named("_buffers", prefix, recurse, not remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Array]:
        """The buffers, each once."""
        return (array for _, array in self.named_buffers(recurse=recurse))

    def get_submodule(self, target: str) -> Module:
        """The module of a dotted name."""
        module = self
        for name in target.split(".") if target else ():
            found = module._modules.get(name)
            if found is None:
                raise AttributeError(f"{type(module).__name__} has no module {name!r} (of {target!r})")
            module = found
        return module

    # ---- state

    def state_dict(
        self, destination: dict[str, Array] | None = None, prefix: str = "", keep_vars: bool = False
    ) -> dict[str, Array]:
        """Parameters and persistent buffers by their dotted names; not copies, and without gradients.

        They are added to the `destination` if there is one; with `keep_vars` they are the module's own arrays.

        >>> import dagrun as dr
        >>> {name: x.shape for name, x in dr.nn.Linear(2, 3).state_dict().items()}
        {'weight': (3, 2), 'bias': (3,)}
        """
        made = {} if destination is None else destination
        made.update((name, array if keep_vars else array.detach()) for name, array in self._state(prefix))
        return made

    def _state(self, prefix: str = "") -> Iterator[tuple[str, Array]]:
        for path, module in self.named_modules(prefix=prefix.removesuffix("."), remove_duplicate=False):
            for name, array in chain(module._parameters.items(), module._buffers.items()):
                if array is not None and name not in module._transient:
                    yield f"{path}.{name}" if path else name, array

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Incompatible:
        """Copies arrays (dagrun's, NumPy's, or anything NumPy reads) into parameters and buffers of the same names.

        RuntimeError, naming all of them, for shapes that differ and, where `strict`, for names that are missing or not
        expected; nothing is copied then. With `assign` the arrays take the places of the module's own, with their
        dtypes and devices: load before the parameters are handed to an optimizer.
        """
        own = dict(self._state())
        missing = [name for name in own if name not in state_dict]
        unexpected = [name for name in state_dict if name not in own]
        given = {name: state_dict[name] for name in own if name in state_dict}
        given = {name: value if isinstance(value, Array) else np.asarray(value) for name, value in given.items()}
        faults = [
            f"{name} has shape {value.shape}, expected {own[name].shape}"
            for name, value in given.items()
            if value.shape != own[name].shape
        ]
        if strict and missing:
            faults.append(f"missing: {', '.join(missing)}")
        if strict and unexpected:
            faults.append(f"unexpected: {', '.join(unexpected)}")
        if faults:
            raise RuntimeError(f"load_state_dict of {type(self).__name__}: " + "; ".join(faults))
        if assign:
            self._replace(
                {id(own[name]): leaf(asarray(value), own[name].requires_grad) for name, value in given.items()}
            )
            return Incompatible(missing, unexpected)
        with no_grad():
            for name, value in given.items():
                target = own[name]
                target[...] = value.to_device(target.device) if isinstance(value, Array) else value
        return Incompatible(missing, unexpected)

    def _replace(self, others: Mapping[int, Array]) -> None:
        """Puts other arrays in the places of parameters and buffers, by their ids; what is shared stays shared."""
        for module in self.modules():
            for register in (module._parameters, module._buffers):
                for name, array in register.items():
                    register[name] = others.get(id(array), array)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_paths"}

    # ---- modes, devices, gradients

    def train(self: Self, mode: bool = True) -> Self:
        """Sets training mode (dropout drops, batch norm uses the batch's statistics) or evaluation mode."""
        for module in self.modules():
            module.__dict__["training"] = bool(mode)
        return self

    def eval(self: Self) -> Self:
        """Evaluation mode."""
        return self.train(False)

    def requires_grad_(self: Self, requires_grad: bool = True) -> Self:
        """Asks for the gradients of all parameters, or freezes them."""
        for parameter in self.parameters():
            parameter.requires_grad = requires_grad
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forgets gathered gradients, or sets them to zero."""
        with no_grad():
            for parameter in self.parameters():
                if parameter.grad is not None:
                    if set_to_none:
                        parameter.grad = None
                    else:
                        parameter.grad = parameter.grad.detach() * 0

    def apply(self: Self, fn: Callable[[Module], Any]) -> Self:
        """Calls a function with every module, those below first, and this one last."""
        for module in self.children():
            module.apply(fn)
        fn(self)
        return self

    def to(self: Self, device: Any = None, dtype: Any = None) -> Self:
        """Moves parameters and buffers to a device, casts the floating ones to a dtype; `to("cpu:1")`, `to(dtype=...)`.

        They become new arrays, so call this before handing the parameters to an optimizer. What is shared stays shared.
        """
        if device is not None and not isinstance(device, str) and dtype is None and _is_dtype(device):
            device, dtype = None, device
        self._replace({id(array): _moved(array, device, dtype) for array in chain(self.parameters(), self.buffers())})
        return self

    def cpu(self: Self) -> Self:
        """Everything on the device "cpu:0"."""
        return self.to("cpu:0")

    def half(self: Self) -> Self:
        """Floating parameters and buffers in float16."""
        return self.to(dtype=np.float16)

    def float(self: Self) -> Self:
        """Floating parameters and buffers in float32."""
        return self.to(dtype=np.float32)

    def double(self: Self) -> Self:
        """Floating parameters and buffers in float64."""
        return self.to(dtype=np.float64)

    # ---- hooks

    def register_forward_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False
    ) -> Handle:
        """Calls `hook(module, inputs, result)` after each forward; what it returns, if not None, is the result.

        With `with_kwargs`: `hook(module, inputs, options, result)`. With `prepend`: before the hooks that are there.
        """
        return Handle(self._hooks).put(_WithOptions(hook) if with_kwargs else hook, prepend)

    def register_forward_pre_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False
    ) -> Handle:
        """Calls `hook(module, inputs)` before each forward; what it returns, if not None, are the inputs.

        With `with_kwargs`: `hook(module, inputs, options)`, which returns None or (inputs, options).
        """
        return Handle(self._pre_hooks).put(_WithOptions(hook) if with_kwargs else hook, prepend)

    # ---- text

    def extra_repr(self) -> str:
        """What stands in the parentheses of `repr`."""
        return ""

    def __repr__(self) -> str:
        text = self.extra_repr()
        lines = text.split("\n") if text and self._modules else []
        for name, module in self._modules.items():
            lines.append(f"({name}): " + repr(module).replace("\n", "\n  "))
        if not lines:
            return f"{type(self).__name__}({text})"
        return f"{type(self).__name__}(\n  " + "\n  ".join(lines) + "\n)"


def _is_dtype(value: Any) -> bool:
    return isinstance(value, np.dtype) or (isinstance(value, type) and issubclass(value, np.generic))


def _moved(array: Array, device: Any, dtype: Any) -> Array:
    def move(x: Array) -> Array:
        with no_grad():
            return asarray(x.detach(), dtype=dtype if x.dtype.kind == "f" else None, device=device)

    if (device is None or str(array.device) == str(device)) and (
        dtype is None or array.dtype.kind != "f" or array.dtype == np.dtype(dtype)
    ):
        return array
    result = leaf(move(array), array.requires_grad)
    if array.requires_grad and array.grad is not None:
        result.grad = move(array.grad)
    return result
