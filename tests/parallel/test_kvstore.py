"""The key-value store: sums of pushes, an updater on the store, asynchronous SGD."""

from __future__ import annotations

import numpy as np
import pytest
from training import batch, loss, mlp

import dagrun as dr
from dagrun import optim
from dagrun.parallel import KVStore


@pytest.mark.parametrize("kind", ["cpu", "sim"])
def test_push_sums_over_devices_and_pull_writes_to_them(kind: str) -> None:
    store = KVStore(f"{kind}:0")
    store.init("w", np.zeros(2))
    ones = [dr.ones(2, device=f"{kind}:{i}") for i in range(3)]
    store.push("w", ones)
    out = [dr.zeros(2, device=f"{kind}:{i}") for i in range(3)]
    assert store.pull("w", out) is out
    assert [x.tolist() for x in out] == [[3, 3]] * 3
    store.push("w", np.array([1.0, 2.0]))
    assert store.pull("w").tolist() == [1, 2]
    assert [x.tolist() for x in store.push_pull("w", ones)] == [[3, 3]] * 3
    assert ones[2].tolist() == [3, 3] and ones[2].device is dr.device(f"{kind}:2")


def test_several_keys() -> None:
    store = KVStore()
    store.init(["a", 1], [dr.zeros(2), dr.zeros(3)])
    store.push(["a", 1], [dr.ones(2), [dr.ones(3), dr.ones(3)]])
    assert [x.tolist() for x in store.pull(["a", 1])] == [[1, 1], [2, 2, 2]]
    assert store.keys() == ["a", 1]
    taken = store.pull("a")
    taken += 1
    assert store.pull("a").tolist() == [1, 1]  # what was pulled is the user's own


@pytest.mark.parametrize(("mode", "calls"), [("sync", [3.0]), ("async", [1.0, 2.0])])
def test_the_updater_runs_on_the_store(mode: str, calls: list[float]) -> None:
    store, seen = KVStore("cpu:0", mode), []

    def update(key: object, pushed: dr.Array, stored: dr.Array) -> None:
        seen.append(pushed.item())
        assert pushed.device is stored.device is dr.device("cpu:0")
        stored -= 0.1 * pushed

    store.init("w", dr.ones(1))
    store.set_updater(update)
    store.push("w", [dr.asarray([1.0]), dr.asarray([2.0], device="cpu:1")])
    assert seen == calls
    assert store.pull("w").item() == pytest.approx(0.7)


def test_training_with_the_optimizer_on_the_store() -> None:
    """Two devices that pull parameters and push gradients make the steps of one on the whole batch."""
    one = mlp()
    optimizer = optim.SGD(one.parameters(), lr=0.1, momentum=0.9)
    nets = [mlp("cpu:0"), mlp("cpu:1")]
    store = KVStore()
    names = [name for name, _ in one.named_parameters()]
    store.init(names, [p.detach() for p in one.parameters()])
    store.set_optimizer(lambda p: optim.SGD(p, lr=0.1, momentum=0.9))
    for seed in range(5):
        optimizer.zero_grad()
        loss(one, batch(8, seed)).backward()
        optimizer.step()
        x, y = batch(8, seed)
        for k, net in enumerate(nets):
            part = slice(4 * k, 4 * k + 4)
            (loss(net, (x[part].to_device(f"cpu:{k}"), y[part].to_device(f"cpu:{k}"))) / 2).backward()
        both = [dict(net.named_parameters()) for net in nets]
        store.push(names, [[own[name].grad for own in both] for name in names])
        store.pull(names, [[own[name] for own in both] for name in names])
        for net in nets:
            net.zero_grad()
    for net in nets:
        for p, own in zip(one.parameters(), net.parameters(), strict=True):
            np.testing.assert_allclose(own.detach().numpy(), p.detach().numpy(), atol=1e-6)


def test_an_optimizer_in_the_place_of_a_function_is_told() -> None:
    with pytest.raises(TypeError, match=r"set_optimizer: got a SGD, expected a function .* lambda p"):
        KVStore().set_optimizer(optim.SGD([dr.ones(1, requires_grad=True)]))


def test_asynchronous_sgd_converges() -> None:
    """Each of three devices pulls, computes and pushes on its own; the slower ones push gradients of old parameters."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((90, 4))
    y = x @ np.array([1.0, -2.0, 3.0, 0.5])

    def run() -> list[float]:
        store = KVStore(mode="async")
        store.init("w", np.zeros(4))
        store.set_optimizer(lambda p: optim.SGD(p, lr=0.1))
        parts = [(dr.asarray(x[k::3], device=f"cpu:{k}"), dr.asarray(y[k::3], device=f"cpu:{k}")) for k in range(3)]
        own = [dr.zeros(4, device=f"cpu:{k}") for k in range(3)]
        for step in range(120):
            for k, (rows, targets) in enumerate(parts):
                if step % (k + 1) == 0:  # device k takes k + 1 turns for a step
                    store.push("w", rows.T @ (rows @ own[k] - targets) / 30)
                    store.pull("w", own[k])
        return store.pull("w").tolist()

    found = run()
    assert found == pytest.approx([1.0, -2.0, 3.0, 0.5], abs=1e-4)
    with dr.engine("serial"):
        assert run() == found


def test_what_does_not_fit_is_refused() -> None:
    store = KVStore()
    with pytest.raises(ValueError, match="mode 'sometimes'"):
        KVStore(mode="sometimes")
    with pytest.raises(KeyError, match="the key 'w' has no value, call init first"):
        store.push("w", dr.ones(1))
    store.init("w", dr.ones(1))
    with pytest.raises(ValueError, match="the key 'w' has a value already"):
        store.init("w", dr.ones(1))
    with pytest.raises(ValueError, match=r"push: \(2,\) for the key 'w', expected \(1,\)"):
        store.push("w", dr.ones(2))
    with pytest.raises(ValueError, match="2 keys and 1 values"):
        store.push(["w", "w"], [dr.ones(1)])
    with pytest.raises(ValueError, match="no value for the key 'w'"):
        store.push("w", [])
