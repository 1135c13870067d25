"""`dagrun scale`: how a model's training step scales with devices."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

import dagrun as dr
from dagrun.cli import arguments, scaling, scaling_plot

DESCRIPTION = """Times the data-parallel training step of a model on 1 to N devices, each with one lane as if it had one
core of its own. Strong scaling: the same batch, cut into more parts. Weak scaling: a batch for each device. More
devices than cores are marked as oversubscribed: they show what the exchange of gradients costs, not what cores would
gain.

Prints a table, and leaves scaling.png (speedups beside the ideal line) and scaling.json in the output folder. The
columns: ideal, the speedup's share of the ideal one; and from the trace: exchange, the share of all tasks' time that
collectives and copies between devices take; together, the share of computing time in which two devices or more
computed; hidden, the share of communicating time in which some device computed."""

EXAMPLES = """examples:
  dagrun scale lenet
  dagrun scale mlp --devices 8 --batch 256 --mode strong
  dagrun scale lenet --no-plot                         # without matplotlib"""

_MODES = {"both": ("strong", "weak"), "strong": ("strong",), "weak": ("weak",)}


def add_command(commands: Any) -> None:
    command = arguments.add_command(
        commands, "scale", "measure how a model's training step scales with devices", DESCRIPTION, run, EXAMPLES
    )
    arguments.add_model(command)
    command.add_argument(
        "--devices", type=arguments.at_least_one, default=4, metavar="N", help="the most devices (default: %(default)s)"
    )
    command.add_argument(
        "--batch",
        type=arguments.at_least_one,
        metavar="ROWS",
        help="rows in all (strong) or on each device (weak; default: the model's)",
    )
    command.add_argument("--mode", choices=_MODES, default="both", help="which curves (default: %(default)s)")
    command.add_argument(
        "--steps",
        type=arguments.at_least_one,
        default=4,
        metavar="N",
        help="steps timed at once (default: %(default)s)",
    )
    command.add_argument(
        "--repeats", type=arguments.at_least_one, default=7, metavar="N", help="times that count (default: %(default)s)"
    )
    command.add_argument("--no-plot", action="store_true", help="no picture, so that matplotlib is not needed")
    arguments.add_output(command, "runs/MODEL", "folder for picture and figures")


def run(args: argparse.Namespace) -> int:
    if not args.no_plot:
        scaling_plot.find_matplotlib()  # before measuring, not after
    model = dr.models.find(args.model)
    batch = arguments.enough_rows(args.batch or model.batch, args.devices)
    folder = args.output or Path("runs") / args.model
    folder.mkdir(parents=True, exist_ok=True)  # before measuring, not after
    curves = measure(model, args.devices, batch, _MODES[args.mode], args.steps, args.repeats)
    show(args.model, curves)
    print(f"left to look at: {', '.join(map(str, save(args.model, curves, folder, plot=not args.no_plot)))}")
    return 0


def measure(
    model: Any, devices: int, batch: int, kinds: Sequence[str], steps: int, repeats: int
) -> dict[str, list[scaling.Point]]:
    """The curves of these kinds, with a progress bar."""
    counts = range(1, devices + 1)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(f"scaling {model.name}", total=len(counts) * len(kinds))
        return {
            kind: scaling.measure(
                model, counts, batch, weak=kind == "weak", steps=steps, repeats=repeats,
                tell=lambda: progress.advance(task),
            )
            for kind in kinds
        }  # fmt: skip


def show(name: str, curves: Mapping[str, Sequence[scaling.Point]]) -> None:
    """Prints a table for each curve."""
    for kind, points in curves.items():
        rows = f"{points[0].rows} rows on each device" if kind == "weak" else f"{points[0].rows} rows in all"
        table = Table(title=f"{name}, {kind} scaling: {rows}, {scaling.cores()} cores", title_justify="left")
        for heading in ("devices", "step", "rows/s", "speedup", "ideal", "exchange", "together", "hidden"):
            table.add_column(heading, justify="right", no_wrap=True)
        for point in points:
            alone = point.devices == 1
            table.add_row(
                f"{point.devices}{' *' if point.oversubscribed else ''}",
                f"{point.seconds * 1e3:.3g} ms",
                f"{point.rows_per_second:,.0f}",
                f"{point.speedup:.2f}",
                f"{point.speedup / point.devices:.0%}",
                f"{point.shares.communication:.1%}",
                "" if alone else f"{point.shares.computing_together:.0%}",
                "" if alone else f"{point.shares.hidden:.0%}",
                style="dim" if point.oversubscribed else "",
            )
        Console().print(table)
    if any(point.oversubscribed for points in curves.values() for point in points):
        print(f"* oversubscribed: more devices than the {scaling.cores()} cores")


def save(name: str, curves: Mapping[str, Sequence[scaling.Point]], folder: Path, *, plot: bool = True) -> list[Path]:
    """Writes scaling.json and the picture into a folder that is there; returns their paths."""
    figures = {kind: [asdict(point) for point in points] for kind, points in curves.items()}
    paths = [folder / "scaling.json"]
    paths[0].write_text(json.dumps({"model": name, "cores": scaling.cores(), **figures}, indent=1) + "\n")
    if plot:
        title = f"One training step of {name} on several devices"
        paths.append(scaling_plot.draw(curves, title, scaling.cores(), folder / "scaling.png"))
    return paths
