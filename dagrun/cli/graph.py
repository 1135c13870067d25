"""`dagrun graph`: one training step of a model as a picture."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import dagrun as dr
from dagrun.cli import arguments

DESCRIPTION = """Draws the graph of one data-parallel training step: boxes are layers, forward and backward, coloured by
device; octagons are the exchange of gradients; arrows are what is read from what. The suffix of the output says which
kind of picture: .svg, .png, .pdf, or .dot for the source."""

EXAMPLES = """examples:
  dagrun graph lenet
  dagrun graph lenet --devices cpu:0 --output lenet.png
  dagrun graph mlp --expand --output mlp.svg           # a box for every task"""


def add_command(commands: Any) -> None:
    command = arguments.add_command(commands, "graph", "draw one training step of a model", DESCRIPTION, run, EXAMPLES)
    arguments.add_model(command)
    arguments.add_devices(command)
    arguments.add_batch(command)
    arguments.add_seed(command)
    command.add_argument("--expand", action="store_true", help="a box for every task, however many there are")
    arguments.add_output(command, "MODEL-graph.svg", "the picture")


def run(args: argparse.Namespace) -> int:
    from dagrun.examples import data_parallel

    model = dr.models.find(args.model)
    batch = arguments.enough_rows(args.batch or model.batch, len(args.devices))
    replicas, optimizers = data_parallel.replicate(model, args.devices, args.seed)
    rows = arguments.made_up(model, batch, args.seed)
    data_parallel.step(model, replicas, optimizers, rows)  # the first update differs: the momentum begins
    graph = dr.graph(data_parallel.step, model, replicas, optimizers, rows)
    path = args.output or Path(f"{args.model}-graph.svg")
    path.parent.mkdir(parents=True, exist_ok=True)
    print(f"{graph!r}\nleft to look at: {graph.render(path, expand=args.expand)}")
    return 0
