"""Bounds on work in flight; memory, exports and imports."""

import weakref
from array import array
from typing import Any

from .lab import INOUT, SHIFT, Gate, Lab, elementwise, message_of


def task_bound(lab: Lab) -> Any:
    """No more tasks than the bound are in flight, held back or not; recording goes on when there is room."""
    n = lab.start(2, max_inflight_tasks=8)
    most = 0

    def note(value: float) -> float:
        nonlocal most
        most = max(most, n.stats()["in_flight"])
        return value + 1

    body = elementwise(note)
    for _ in range(3):
        n.pause(True)
        x = lab.array([0])
        for _ in range(50):
            x = lab.record("note", body, x)
        assert lab.values(x) == [50]
    assert 1 <= most <= 8 + 1 and n.stats()["admission_waits"] > 0
    assert n.stats()["in_flight"] == 0 and n.stats()["recorded"] == n.stats()["finished"] == 150


def byte_bound(lab: Lab) -> Any:
    """Memory that only unfinished tasks hold is bounded; an operation above the bound still runs."""
    n = lab.start(2, max_inflight_bytes=1 << 14)
    n.memory_stats(lab.cpu, True)
    n.pause(True)
    x = lab.array([0] * 128)  # one KiB
    for _ in range(100):
        x = lab.record("shift", SHIFT, x)
        assert n.stats()["pinned_bytes"] <= (1 << 14) + 1024
    assert lab.values(x) == [100] * 128
    big = lab.array([1] * 4096)
    assert lab.values(lab.record("big", SHIFT, lab.record("big", SHIFT, big))) == [3] * 4096
    n.wait_all()
    assert n.stats()["pinned_bytes"] == 0


def memory(lab: Lab) -> Any:
    """Bytes are counted in size classes; freed memory is used again, and overwritten where the device says so."""
    device = lab.n.add_device("cpu:1", None, 2, 2, 2, cache_bytes=1 << 20, overwrite_freed=True)
    n = lab.start()
    counts = []

    def count() -> None:
        stats = n.memory_stats(device)
        counts.append([stats["live_bytes"], stats["peak_bytes"], stats["cached_bytes"]])

    for size in (1, 8, 9, 64, 65, 100, 1000, 10_000, 100_000, 1_000_000):
        x = lab.array([1] * size, device=device)
        count()
        del x
        count()
    n.trim_memory(device)
    count()
    x = n.empty(lab.layout(1000), device)
    assert bytes(n.export(x)) == b"\xa5" * 8000
    assert n.memory_stats(device, True)["peak_bytes"] == n.memory_stats(device)["live_bytes"] == 8192
    y = n.view(x, lab.layout(10), 80)
    del x
    assert n.memory_stats(device)["live_bytes"] == 8192  # a view holds it all
    message = message_of(lambda y=y: n.view(y, lab.layout(10), 7928))
    assert message == "IndexError: view of bytes [7928, 8008) in a buffer of 8000"
    exported = n.export(y)
    del y
    assert n.memory_stats(device)["live_bytes"] == 8192 and bytes(exported)[:2] == b"\xa5\xa5"  # so does an export
    del exported
    assert n.memory_stats(device)["live_bytes"] == 0
    return counts


def lifetimes(lab: Lab) -> Any:
    """Memory stays while an unfinished task reads it, though all its arrays are gone."""
    device = lab.n.add_device("cpu:1", None, 2, 2, 2, overwrite_freed=True)
    n = lab.start()
    gate = Gate()
    x = lab.array([1, 2], device=device)
    held = lab.record("gate", gate.body, x, device=device)
    gate.entered.wait()
    y = lab.record("shift", SHIFT, held, device=device)
    del x, held
    assert n.memory_stats(device)["live_bytes"] >= 128 and n.stats()["pinned_bytes"] == 32
    gate.opened.set()
    assert lab.values(y) == [3, 4]
    assert n.memory_stats(device)["live_bytes"] == 64


def export_copy_on_write(lab: Lab) -> Any:
    """What was exported never changes: what is written while it lives goes to fresh memory."""
    n = lab.start()
    x = lab.array(range(4))
    old = n.export(x)
    n.trace(True)
    lab.record("one", SHIFT, x, out=x, mode=INOUT)
    assert list(memoryview(old).cast("d")) == [0, 1, 2, 3] and memoryview(old).readonly
    assert lab.values(x) == [1, 2, 3, 4]
    del old
    lab.record("two", SHIFT, x, out=x, mode=INOUT)
    assert lab.values(x) == [2, 3, 4, 5]
    names = [task[1] for task in n.trace(False)[0]]
    assert names == ["detach", "one", "two"]
    kept_memory, memory = n.export(x), memoryview(n.export(x))
    del kept_memory
    part = memory[8:]
    del memory
    lab.record("three", SHIFT, x, out=x, mode=INOUT)
    assert list(part.cast("d")) == [3, 4, 5] and lab.values(x) == [3, 4, 5, 6]  # views of an export hold it
    return names


def held_signatures(lab: Lab) -> Any:
    """Signatures that die give back what they held, which may be other signatures."""

    class Held:
        def __init__(self, signature: Any) -> None:
            self.signature = signature

        def __call__(self, code: int, details: tuple[int, ...]) -> Any:
            return ValueError, f"{code}"

    def held_by(held: Held) -> Any:
        return lab.signature("held", SHIFT, lab.layout(1), [lab.layout(1)], explain=held)

    alive = []
    signatures = []
    for _ in range(64):  # the native core frees so many at a time
        inner = Held(None)
        alive.append(weakref.ref(inner))
        signatures.append(held_by(Held(held_by(inner))))
    del inner
    signatures.clear()
    assert [held() for held in alive] == [None] * 64


def lent_memory(lab: Lab) -> Any:
    """Memory given without a copy is read in place, never written, and let go of with its last array."""
    n = lab.start()
    source = array("d", [1, 2, 3])
    alive = weakref.ref(source)
    x = n.from_memory(lab.layout(3), 0, source, False)
    source[0] = 5
    assert lab.values(lab.record("read", SHIFT, x)) == [6, 3, 4]
    lab.record("write", SHIFT, x, out=x, mode=INOUT)
    assert lab.values(x) == [6, 3, 4] and list(source) == [5, 2, 3]
    y = n.from_memory(lab.layout(3), 0, source, False)
    del source
    assert alive() is not None
    del y
    n.wait(x)
    n.wait_all()
    assert alive() is None
    assert "12 bytes" in message_of(lambda: n.from_memory(lab.layout(3), 0, b"x" * 12, True))
    assert message_of(lambda: n.from_memory(lab.layout(3), 0, 12, True)).startswith("TypeError")
    assert n.from_memory(lab.layout(0, 3), 0, b"", True).size == 0
