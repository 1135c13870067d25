"""`dagrun`: what people run from a shell. Each command is one file of this package."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from dagrun import __version__
from dagrun.cli import demo, graph, info, profile, scale, train
from dagrun.errors import DagrunError


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    top = argparse.ArgumentParser(
        prog="dagrun",
        description="Write serial NumPy; it runs as a graph, on every core and device at once.",
        epilog="Start with `dagrun demo`, then `dagrun train lenet`. `dagrun COMMAND --help` explains a command.",
    )
    top.add_argument("--version", action="version", version=f"dagrun {__version__}")
    commands = top.add_subparsers(title="commands", dest="command", metavar="COMMAND")
    for module in (demo, train, graph, profile, scale, info):
        module.add_command(commands)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    top = parser()
    args = top.parse_args(argv)
    if args.command is None:
        top.print_help()
        return 0
    try:
        return int(args.run(args))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (DagrunError, OSError, ValueError, ImportError) as error:
        print(f"dagrun {args.command}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
