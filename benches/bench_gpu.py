"""On a GPU: the cost of a launch, streams side by side, copies beside kernels, memory, convolutions, training steps.

torch runs beside it, eager, where it has CUDA; both use float32 without TF32. Every run ends when both sides are idle.
`make bench-gpu` runs it where there is a GPU. DAGRUN_BENCH_SMALL=1 takes sizes that the emulator of the tests can do,
and torch on the CPU: that says nothing of speed, but that every line works.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import dagrun as dr
from dagrun.config import settings
from dagrun.ops import convolution
from dagrun.parallel import all_reduce

SMALL = os.environ.get("DAGRUN_BENCH_SMALL") == "1"
GPU, OTHER = "cuda:0", "cuda:1"
RATE, MOMENTUM = 0.01, 0.9
Step = Callable[[int], Any]

# What torch warns of (settings that it will rename, weights of an LSTM that lie apart) is shown, and stops nothing.
pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]


def pick(full: int, small: int) -> int:
    return small if SMALL else full


ROUNDS = pick(21, 2)
STEPS = pick(10, 2)  # training steps to a measured run


class Torch:
    """torch on the GPU, or None in `module`; where this is only a rehearsal, on the CPU."""

    def __init__(self, bench: Any) -> None:
        self.module = bench.torch()
        self.device = "cuda" if self.module and self.module.cuda.is_available() else "cpu"
        if self.device == "cpu" and not SMALL:
            self.module = None
        if self.module:
            self.module.backends.cuda.matmul.allow_tf32 = self.module.backends.cudnn.allow_tf32 = False

    def wait(self) -> None:
        if self.module and self.device == "cuda":
            self.module.cuda.synchronize()

    def peers(self, run: Callable[[], Any]) -> dict[str, Callable[[], Any]]:
        """The peer that a call of `run` is; nobody without torch."""

        def waiting() -> None:
            run()
            self.wait()

        return {"torch eager": waiting} if self.module else {}

    def asarray(self, x: np.ndarray[Any, Any]) -> Any:
        return self.module.from_numpy(x).to(self.device)


@pytest.fixture
def torch(bench: Any) -> Torch:
    return Torch(bench)


def waiting(run: Callable[[], Any]) -> Callable[[], None]:
    def and_wait() -> None:
        run()
        dr.wait()

    return and_wait


def compare(bench: Any, name: str, peers: dict[str, Any], unit: str = "ms") -> None:
    """A claim against each peer, or the figure alone."""
    for peer in peers:
        bench.against(name, peer, unit)
    if not peers:
        bench.figure(name, bench.median(), unit)


def random(*shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


# ---- launches


def test_host_cost_of_a_task(bench: Any, torch: Torch) -> None:
    """Recording and launching by the host: the GPU itself needs longer for each, and is waited for outside."""
    count = pick(1000, 20)
    x = dr.zeros(16, "float32", device=GPU)
    add(x, 3)

    def recorded() -> float:
        dr.wait()
        return float(bench.clock(add, x, count))

    peers = {}
    if torch.module:
        y = torch.asarray(np.zeros(16, np.float32))

        def launched() -> float:
            torch.wait()
            return float(bench.clock(add, y, count))

        peers["torch eager"] = launched
    bench.run(recorded, peers, rounds=ROUNDS, per=count)
    compare(bench, "the caller's time for x + 1 on 16 float32, which is not waited for", peers, "us")
    dr.wait()
    torch.wait()


def add(x: Any, count: int) -> Any:
    for _ in range(count):
        x = x + 1.0
    return x


def test_tasks_until_done(bench: Any, torch: Torch) -> None:
    count = pick(1000, 20)
    x = dr.zeros(16, "float32", device=GPU)
    peers = {}
    if torch.module:
        y = torch.asarray(np.zeros(16, np.float32))
        peers = torch.peers(lambda: add(y, count))
    bench.run(waiting(lambda: add(x, count)), peers, rounds=ROUNDS, per=count)
    compare(bench, f"a chain of {count} x + 1 on 16 float32 until done, for each", peers, "us")


@pytest.mark.parametrize("chains", [4, 8])
def test_independent_chains(bench: Any, chains: int) -> None:
    """Products that fill a part of the GPU: chains side by side on several streams, and one after the other on one."""
    size, length = pick(256, 8), pick(100, 3)
    factor = dr.asarray(random(size, size) / np.float32(size**0.5), device=GPU)
    starts = [dr.asarray(random(size, size, seed=i), device=GPU) for i in range(chains)]

    def side_by_side() -> None:
        products = list(starts)
        for _ in range(length):
            products = [x @ factor for x in products]

    def one_chain() -> None:
        x = starts[0]
        for _ in range(length * chains):
            x = x @ factor

    one_stream = "one chain, as many products"
    bench.run(waiting(side_by_side), {one_stream: waiting(one_chain)}, rounds=ROUNDS)
    bench.against(f"{chains} chains of {length} products of {size} x {size}", one_stream, at_least=2.0)


def test_copies_beside_kernels(bench: Any) -> None:
    """Copies to the GPU while it computes: together they take as long as the longer alone."""
    size, pieces = pick(2048, 16), pick(8, 2)
    x = dr.asarray(random(size, size) / np.float32(size**0.5), device=GPU)
    values = [dr.asarray(random(size, size, seed=i), device="cpu:0") for i in range(pieces)]

    def compute() -> None:
        y = x
        for _ in range(products):
            y = y @ x

    def copy() -> list[dr.Array]:
        return [value.to_device(GPU) for value in values]

    def both() -> None:
        copies = copy()
        compute()
        del copies

    products = 20
    for run in (compute, copy):
        waiting(run)()
    alone = [min(bench.clock(waiting(run)) for _ in range(3)) for run in (compute, copy)]
    products = max(1, min(2000, round(products * alone[1] / alone[0])))  # about as long as the copies
    bench.run(waiting(both), {"compute": waiting(compute), "copies": waiting(copy)}, rounds=ROUNDS)
    longer = [max(pair) for pair in zip(bench.seconds["compute"], bench.seconds["copies"], strict=True)]
    ratio = float(np.median([ours / one for ours, one in zip(bench.seconds["ours"], longer, strict=True)]))
    name = f"{products} products of {size} x {size} and {pieces} copies of as much to the GPU at once"
    bench.claim(
        name, f"{bench.median() * 1e3:.3g} ms", f"the longer alone {np.median(longer) * 1e3:.3g} ms", ratio, at_most=1.1
    )


# ---- memory


def device_copy(torch: Torch, count: int) -> tuple[str, Callable[[], None]]:
    """A copy of `count` float32 within the GPU's memory, by whoever is here; with its name."""
    if torch.module and torch.device == "cuda":
        a = torch.asarray(np.zeros(count, np.float32))
        b = torch.module.empty_like(a)
        return "a device copy (torch)", torch.peers(lambda: b.copy_(a))["torch eager"]
    if not SMALL:
        cupy = pytest.importorskip("cupy")
        c, d = cupy.zeros(count, "float32"), cupy.empty(count, "float32")

        def by_cupy() -> None:
            d.data.copy_from_device_async(c.data, c.nbytes, cupy.cuda.Stream.null)
            cupy.cuda.Stream.null.synchronize()

        return "a device copy (cudaMemcpyAsync)", by_cupy
    source, target = dr.zeros(count, "float32", device=GPU), dr.zeros(count, "float32", device=GPU)

    def by_dagrun() -> None:
        target[...] = source

    return "a copy (rehearsal)", waiting(by_dagrun)


def bandwidth(bench: Any, name: str, moved: float, peer: str, copied: float, at_least: float | None) -> None:
    """Claims the share of the bytes a second, read and written, that a device copy reaches in the same rounds."""
    pairs = zip(bench.seconds["ours"], bench.seconds[peer], strict=True)
    ratio = float(np.median([moved / ours / (copied / its) for ours, its in pairs]))
    speeds = [f"{nbytes / bench.median(who) / 1e9:.4g} GB/s" for who, nbytes in (("ours", moved), (peer, copied))]
    bench.claim(name, speeds[0], f"{peer} {speeds[1]}", ratio, at_least=at_least)


def test_elementwise(bench: Any, torch: Torch) -> None:
    count = pick(64 << 20, 1000)
    x = dr.ones(count, "float32", device=GPU)
    peer, copy = device_copy(torch, count)
    peers = {peer: copy}
    if torch.module:
        y = torch.asarray(np.ones(count, np.float32))
        peers |= torch.peers(lambda: y + 1.0)
    bench.run(waiting(lambda: x + 1.0), peers, rounds=ROUNDS)
    bandwidth(bench, f"x + 1 on {count >> 20} M float32, bytes read and written", 8 * count, peer, 8 * count, None)
    compare(bench, f"x + 1 on {count >> 20} M float32", {name: run for name, run in peers.items() if name != peer})


def test_all_reduce(bench: Any, torch: Torch) -> None:
    """The ring between two devices: two copies and one addition of half the array on each of them."""
    if OTHER not in map(str, dr.devices()):
        pytest.skip("there is one CUDA device: set DAGRUN_CUDA_LOGICAL=2 for two on one GPU")
    count = pick(25_500_000, 1000)  # float32: the gradients of a ResNet-50
    values = [random(count, seed=i) for i in range(2)]
    arrays = [dr.asarray(x, device=device) for x, device in zip(values, (GPU, OTHER), strict=True)]
    for total in all_reduce(arrays):
        np.testing.assert_array_equal(total.numpy(), values[0] + values[1])
    peer, copy = device_copy(torch, count)
    bench.run(waiting(lambda: all_reduce(arrays)), {peer: copy}, rounds=ROUNDS)
    # Each device: two copies of half the array (2 x 2 halves read or written), one addition (3 halves).
    name = f"all_reduce of {4 * count / 1e6:.4g} MB between {GPU} and {OTHER}, bytes read and written"
    bandwidth(bench, name, 2 * 7 * 2 * count, peer, 8 * count, 0.8)


def test_product(bench: Any, torch: Torch) -> None:
    size = pick(4096, 16)
    x, y = random(size, size), random(size, size, seed=1)
    a, b = dr.asarray(x, device=GPU), dr.asarray(y, device=GPU)
    peers = {}
    if torch.module:
        c, d = torch.asarray(x), torch.asarray(y)
        np.testing.assert_allclose((a @ b).numpy(), (c @ d).cpu().numpy(), rtol=1e-3, atol=1e-2)
        peers = torch.peers(lambda: c @ d)
    bench.run(waiting(lambda: a @ b), peers, rounds=ROUNDS)
    compare(bench, f"a product of {size} x {size} float32", peers)


# ---- convolutions

# channels, size, outputs, kernel, stride, groups: ResNet-50's and ResNet-18's layers, and a depthwise one
LAYERS = [
    (3, 224, 64, 7, 2, 1),
    (64, 56, 64, 3, 1, 1),
    (256, 56, 512, 1, 2, 1),
    (256, 14, 256, 3, 1, 1),
    (512, 7, 512, 3, 1, 1),
    (64, 32, 64, 3, 1, 1),
    (128, 56, 128, 3, 1, 128),
]


@pytest.mark.parametrize("layer", LAYERS, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_convolution(bench: Any, torch: Torch, layer: Any, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer with both gradients by columns and without, and by the way that shapes choose."""
    channels, size, outputs, kernel, stride, groups = layer
    batch = pick(32, 2)
    if SMALL:
        channels, size, outputs, groups = min(channels, 8), min(size, 5), min(outputs, 8), min(groups, 8)
    shapes = (batch, channels, size, size), (outputs, channels // groups, kernel, kernel)
    x, w = (random(*shape, seed=i).astype(dtype) for i, shape in enumerate(shapes))
    own = [dr.asarray(a, device=GPU, requires_grad=True) for a in (x, w)]
    padding = kernel // 2
    probe = dr.ones_like(dr.nn.functional.conv2d(*own, None, stride, padding, 1, groups).detach())

    def step(way: str) -> Callable[[], None]:
        def run() -> None:
            monkeypatch.setattr(convolution, "settings", lambda: replace(settings(), cuda_convolution=way))
            y = dr.nn.functional.conv2d(*own, None, stride, padding, 1, groups)
            for a in own:
                a.grad = None
            y.backward(probe)
            dr.wait()

        return run

    peers = {name: step(name) for name in ("columns", "implicit")}
    if torch.module and (torch.device == "cuda" or dtype == "float32"):
        theirs = [torch.asarray(a).requires_grad_() for a in (x, w)]
        cotangent = torch.asarray(np.ones(probe.shape, dtype))

        def eager() -> None:
            y = torch.module.nn.functional.conv2d(*theirs, None, stride, padding, 1, groups)
            torch.module.autograd.grad(y, theirs, cotangent)

        peers |= torch.peers(eager)
    bench.run(step("auto"), peers, rounds=ROUNDS)
    name = f"{channels} x {size} x {size} to {outputs}, kernel {kernel}, stride {stride}, groups {groups}"
    compare(bench, f"convolution and both gradients, batch {batch}, {name}, {dtype}", peers)


# ---- training


def train(
    bench: Any, torch: Torch, name: str, net: Any, forward: Callable[[Any, dict[str, Any]], Any], x: Any, labels: Any
) -> None:
    """Steps of SGD with momentum, both from the same weights; `forward` is the network in torch, of its state."""
    theirs: Step | None = None
    if torch.module:
        theirs = torch_step(torch, {key: value.numpy() for key, value in net.state_dict().items()}, forward, x, labels)
    inputs, targets = dr.asarray(x, device=GPU), dr.asarray(labels, device=GPU)
    optimizer = dr.optim.SGD(net.parameters(), RATE, MOMENTUM)

    def ours(_: int) -> Any:
        loss = dr.nn.functional.cross_entropy(net(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    first = float(ours(0).item())
    assert np.isfinite(first)
    if theirs:
        np.testing.assert_allclose(first, float(theirs(0).item()), rtol=1e-2)

    def steps(step: Step) -> Callable[[], None]:
        return lambda: [step(i) for i in range(STEPS)] and None

    peers = torch.peers(steps(theirs)) if theirs else {}
    bench.run(waiting(steps(ours)), peers, rounds=ROUNDS, per=STEPS)
    compare(bench, f"training step of {name}", peers)


def torch_step(
    torch: Torch, state: dict[str, Any], forward: Callable[[Any, dict[str, Any]], Any], x: Any, labels: Any
) -> Step:
    w = {key: torch.asarray(np.array(value)) for key, value in state.items()}
    parameters = [w[key].requires_grad_() for key in w if key.rsplit(".")[-1].startswith(("weight", "bias"))]
    optimizer = torch.module.optim.SGD(parameters, RATE, MOMENTUM)
    inputs, targets = torch.asarray(x), torch.asarray(labels)

    def step(_: int) -> Any:
        loss = torch.module.nn.functional.cross_entropy(forward(inputs, w), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    return step


def on_gpu(make: Callable[[], Any]) -> Any:
    dr.random.seed(0)
    with dr.default_device(GPU):
        return make()


def digits(count: int, classes: int = 10) -> Any:
    return np.random.default_rng(1).integers(0, classes, count)


def test_mlp(bench: Any, torch: Torch) -> None:
    batch, sizes = pick(64, 4), (784, 256, 128, 10) if not SMALL else (12, 8, 6, 10)

    def forward(x: Any, w: dict[str, Any]) -> Any:
        f = torch.module.nn.functional
        for layer in (0, 2, 4):
            x = f.linear(f.relu(x) if layer else x, w[f"{layer}.weight"], w[f"{layer}.bias"])
        return x

    nn = dr.nn
    net = on_gpu(
        lambda: nn.Sequential(
            nn.Linear(*sizes[:2]), nn.ReLU(), nn.Linear(*sizes[1:3]), nn.ReLU(), nn.Linear(*sizes[2:])
        )
    )
    name = f"the MLP {'-'.join(map(str, sizes))}, batch {batch}"
    train(bench, torch, name, net, forward, random(batch, sizes[0]), digits(batch))


def test_lenet(bench: Any, torch: Torch) -> None:
    batch = pick(64, 2)

    def forward(x: Any, w: dict[str, Any]) -> Any:
        f = torch.module.nn.functional
        for layer, padding in ((0, 2), (3, 0)):
            x = f.conv2d(x, w[f"features.{layer}.weight"], w[f"features.{layer}.bias"], padding=padding)
            x = f.max_pool2d(f.relu(x), 2)
        x = x.flatten(1)
        for layer in (1, 3, 5):
            x = f.linear(x if layer == 1 else f.relu(x), w[f"classifier.{layer}.weight"], w[f"classifier.{layer}.bias"])
        return x

    train(
        bench,
        torch,
        f"LeNet-5, batch {batch}",
        on_gpu(dr.models.LeNet5),
        forward,
        random(batch, 1, 28, 28),
        digits(batch),
    )


class LSTMClassifier(dr.nn.Module):
    """Scores of the last step of a sequence (steps, N, width)."""

    def __init__(self, width: int, units: int) -> None:
        super().__init__()
        self.lstm, self.head = dr.nn.LSTM(width, units), dr.nn.Linear(units, 10)

    def forward(self, x: dr.Array) -> dr.Array:
        return self.head(self.lstm(x)[0][-1])


def test_lstm(bench: Any, torch: Torch) -> None:
    steps, batch, width, units = (32, 32, 256, 256) if not SMALL else (3, 2, 4, 5)

    def forward(x: Any, w: dict[str, Any]) -> Any:
        start = torch.module.zeros(1, batch, units, device=torch.device)
        weights = [w[f"lstm.{key}_l0"] for key in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        y, *_ = torch.module.lstm(x, (start, start), weights, True, 1, 0.0, True, False, False)
        return torch.module.nn.functional.linear(y[-1], w["head.weight"], w["head.bias"])

    net = on_gpu(lambda: LSTMClassifier(width, units))
    name = f"an LSTM {width}-{units}, {steps} steps, batch {batch}"
    train(bench, torch, name, net, forward, random(steps, batch, width), digits(batch))


def resnet_in_torch(torch: Torch, small: bool) -> Callable[[Any, dict[str, Any]], Any]:
    """Any ResNet, as its state says."""

    def layer(x: Any, w: dict[str, Any], conv: str, norm: str, stride: int = 1) -> Any:
        f, kernel = torch.module.nn.functional, w[f"{conv}.weight"]
        x = f.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
        statistics = w[f"{norm}.running_mean"], w[f"{norm}.running_var"]
        return f.batch_norm(x, *statistics, w[f"{norm}.weight"], w[f"{norm}.bias"], training=True)

    def forward(x: Any, w: dict[str, Any]) -> Any:
        f = torch.module.nn.functional
        x = f.relu(layer(x, w, "conv1", "bn1", 1 if small else 2))
        x = x if small else f.max_pool2d(x, 3, 2, 1)
        blocks = sorted({key.rsplit(".", 2)[0] for key in w if key.endswith(".conv1.weight")})
        for at in blocks:
            stride = 2 if at.endswith(".0") and not at.startswith("layer1") else 1
            skip = (
                layer(x, w, f"{at}.downsample.0", f"{at}.downsample.1", stride)
                if f"{at}.downsample.0.weight" in w
                else x
            )
            bottleneck = f"{at}.conv3.weight" in w
            y = f.relu(layer(x, w, f"{at}.conv1", f"{at}.bn1", 1 if bottleneck else stride))
            y = layer(y, w, f"{at}.conv2", f"{at}.bn2", stride if bottleneck else 1)
            x = f.relu((layer(f.relu(y), w, f"{at}.conv3", f"{at}.bn3") if bottleneck else y) + skip)
        return f.linear(x.mean((2, 3)), w["fc.weight"], w["fc.bias"])

    return forward


def test_resnet18(bench: Any, torch: Torch) -> None:
    batch, size, width = pick(128, 2), pick(32, 8), pick(64, 4)
    net = on_gpu(lambda: dr.models.resnet18(10, small=True, width=width))
    name = f"ResNet-18 for {size} x {size}, batch {batch}"
    train(bench, torch, name, net, resnet_in_torch(torch, True), random(batch, 3, size, size), digits(batch))


def test_resnet50(bench: Any, torch: Torch) -> None:
    batch, size, width = pick(32, 2), pick(224, 32), pick(64, 2)
    net = on_gpu(lambda: dr.models.resnet50(10, width=width))
    name = f"ResNet-50 for {size} x {size}, batch {batch}"
    train(bench, torch, name, net, resnet_in_torch(torch, False), random(batch, 3, size, size), digits(batch))
