"""`dagrun profile`: where the time of a model's training steps goes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import dagrun as dr
from dagrun.cli import arguments

DESCRIPTION = """Runs some data-parallel training steps and shows where their time goes: by operator, by worker and
lane, the overlap of devices, the critical path. Leaves trace.json (for https://ui.perfetto.dev) and timeline.svg."""

EXAMPLES = """examples:
  dagrun profile lenet
  dagrun profile mlp --devices cpu:0,cpu:1,cpu:2 --batch 96 --steps 5"""

WARM_UP = 3  # steps in which kernels are compiled and memory is taken


def add_command(commands: Any) -> None:
    command = arguments.add_command(
        commands, "profile", "show where the time of a model's training steps goes", DESCRIPTION, run, EXAMPLES
    )
    arguments.add_model(command)
    arguments.add_devices(command)
    arguments.add_batch(command)
    arguments.add_seed(command)
    command.add_argument(
        "--steps", type=arguments.at_least_one, default=10, metavar="N", help="how many (default: %(default)s)"
    )
    arguments.add_output(command, "runs/MODEL", "folder for trace and timeline")


def run(args: argparse.Namespace) -> int:
    from dagrun.examples import data_parallel

    model = dr.models.find(args.model)
    batch = arguments.enough_rows(args.batch or model.batch, len(args.devices))
    folder = args.output or Path("runs") / args.model
    folder.mkdir(parents=True, exist_ok=True)  # before running, not after
    replicas, optimizers = data_parallel.replicate(model, args.devices, args.seed)
    rows = arguments.made_up(model, batch, args.seed)
    for _ in range(WARM_UP):
        data_parallel.step(model, replicas, optimizers, rows)
    dr.wait()
    with dr.profile() as profile:
        for _ in range(args.steps):
            data_parallel.step(model, replicas, optimizers, rows)
    steps = "1 step" if args.steps == 1 else f"{args.steps} steps"
    title = f"{steps} of {args.model}, {batch} rows on {', '.join(map(str, args.devices))}"
    paths = [
        profile.save_chrome_trace(folder / "trace.json"),
        profile.save_timeline(folder / "timeline.svg", title=title),
    ]
    print(title)
    print(profile.summary())
    print(f"\nleft to look at: {', '.join(map(str, paths))}")
    return 0
