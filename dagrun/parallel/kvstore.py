"""A store of arrays by key, after MXNet's KVStore: devices push values, which are summed, and pull results.

With an updater the store holds the parameters themselves: a push is a gradient, and the updater applies it there. In
`async` mode each device's push is applied on its own, when it comes (Dean et al. 2012): nobody waits for the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dagrun import ops
from dagrun.array import Array, as_array
from dagrun.autodiff import no_grad
from dagrun.devices import Device
from dagrun.devices import device as find_device

Key = int | str
Updater = Callable[[Key, Array, Array], Any]  # (key, pushed total, stored array): writes into the stored array


class KVStore:
    """Arrays by key on one device, for the devices of this process.

    `mode`: "sync" sums the values of one push before they are applied, "async" applies them one after another.

        >>> import dagrun as dr
        >>> store = dr.parallel.KVStore()
        >>> store.init("w", dr.zeros(2))
        >>> store.push("w", [dr.ones(2), dr.ones(2, device="cpu:1")])
        >>> store.pull("w")
        array([2., 2.])
    """

    def __init__(self, device: str | Device = "cpu:0", mode: str = "sync") -> None:
        if mode not in ("sync", "async"):
            raise ValueError(f"KVStore: mode {mode!r}, expected 'sync' or 'async'")
        self.device, self.mode = find_device(device), mode
        self._values: dict[Key, Array] = {}
        self._updater: Updater | None = None

    def init(self, key: Key | Sequence[Key], value: Any) -> None:
        """Stores a first value under a new key, or values under several. ValueError where a key has one already."""
        for own, given in self._pairs(key, value, "init"):
            if own in self._values:
                raise ValueError(f"KVStore.init: the key {own!r} has a value already")
            with no_grad():
                self._values[own] = ops.copy(as_array(given).to_device(self.device))

    def set_updater(self, updater: Updater | None) -> None:
        """`updater(key, pushed, stored)` writes into `stored` from now on; without one a push replaces the value."""
        self._updater = updater

    def set_optimizer(self, optimizer: Any) -> None:
        """Pushed values become gradients of the stored arrays.

        `optimizer`: a function from parameters to an optimizer, such as `lambda p: dr.optim.SGD(p, lr=0.1)`; each key
        gets one of its own.
        """
        if not callable(optimizer):
            raise TypeError(
                f"KVStore.set_optimizer: got a {type(optimizer).__name__}, expected a function that makes one for each "
                "key, such as lambda p: dr.optim.SGD(p, lr=0.1)"
            )
        own: dict[Key, Any] = {}

        def update(key: Key, pushed: Array, stored: Array) -> None:
            if key not in own:
                stored.requires_grad = True
                own[key] = optimizer([stored])
            stored.grad = pushed
            own[key].step()

        self.set_updater(update)

    def push(self, key: Key | Sequence[Key], value: Any) -> None:
        """Sends a value, or a list with one from each device, to the store; with several keys a list of these."""
        with no_grad():
            for own, given in self._pairs(key, value, "push"):
                stored = self._stored(own)
                sources = list(map(as_array, given)) if isinstance(given, (list, tuple)) else [as_array(given)]
                if not sources:
                    raise ValueError(f"KVStore.push: no value for the key {own!r}")
                for x in sources:
                    if x.shape != stored.shape:
                        raise ValueError(f"KVStore.push: {x.shape} for the key {own!r}, expected {stored.shape}")
                arrived = [x.to_device(self.device) for x in sources]
                if self.mode == "sync":
                    total = arrived[0]
                    for x in arrived[1:]:
                        total = total + x
                    arrived = [total]
                for total in arrived:
                    if self._updater is not None:
                        self._updater(own, total, stored)
                    else:
                        stored[...] = total

    def pull(self, key: Key | Sequence[Key], out: Any = None) -> Any:
        """The value of a key, or those of several; with `out` (an array, or one on each device) written there."""
        several = isinstance(key, (list, tuple))
        results = []
        with no_grad():
            for own, targets in self._pairs(key, out, "pull"):
                stored = self._stored(own)
                for target in [] if targets is None else [targets] if isinstance(targets, Array) else targets:
                    target[...] = stored.to_device(target.device)
                results.append(ops.copy(stored) if targets is None else targets)
        return results if several else results[0]

    def push_pull(self, key: Key | Sequence[Key], value: Any, out: Any = None) -> Any:
        """`push`, then `pull`; into the values themselves unless `out` is given."""
        self.push(key, value)
        return self.pull(key, value if out is None else out)

    def keys(self) -> list[Key]:
        """The keys that have values."""
        return list(self._values)

    def _stored(self, key: Key) -> Array:
        if key not in self._values:
            raise KeyError(f"KVStore: the key {key!r} has no value, call init first; there are {self.keys()}")
        return self._values[key]

    def _pairs(self, key: Any, value: Any, name: str) -> list[tuple[Key, Any]]:
        if not isinstance(key, (list, tuple)):
            return [(key, value)]
        values = [None] * len(key) if value is None else list(value)
        if len(values) != len(key):
            raise ValueError(f"KVStore.{name}: {len(key)} keys and {len(values)} values, expected as many")
        return list(zip(key, values, strict=True))
