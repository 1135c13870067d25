"""Running Graphviz: the system's ``dot`` where there is one, else the one that the package ``graphviz-pure`` brings."""

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

HOW_TO_INSTALL = "pip install graphviz-pure  (or install Graphviz itself, https://graphviz.org/download)"


def find_renderers() -> list[str]:
    """The programs that can lay out a graph, the preferred one first; empty when there is none."""
    folders = (Path(sys.executable).parent, Path(sysconfig.get_path("scripts")))
    bundled = [found for folder in folders if (found := shutil.which("graphviz-pure", path=str(folder)))]
    candidates = [shutil.which("dot"), *bundled, shutil.which("graphviz-pure")]
    return list(dict.fromkeys(program for program in candidates if program))


def render_dot(source: str, kind: str, timeout_seconds: float = 120.0) -> bytes:
    """The picture of a graph in the dot language, `kind` being ``"svg"``, ``"png"`` or ``"pdf"``.

    Raises RuntimeError when no Graphviz is installed or none of those found can do it.
    """
    failures = []
    for program in find_renderers():
        try:
            done = subprocess.run(
                [program, f"-T{kind}"], input=source.encode(), capture_output=True, timeout=timeout_seconds, check=False
            )
        except subprocess.TimeoutExpired:
            failures.append(f"{program}: no picture within {timeout_seconds:g} s; draw fewer boxes (expand=False)")
            continue
        except OSError as error:
            failures.append(f"{program}: {error}")
            continue
        if done.returncode == 0 and done.stdout:
            return done.stdout
        failures.append(
            f"{program}: exit status {done.returncode}: {done.stderr.decode(errors='replace').strip()[-500:]}"
        )
    if not failures:
        raise RuntimeError(f"drawing a graph as .{kind} needs Graphviz and none was found: {HOW_TO_INSTALL}")
    raise RuntimeError(f"no Graphviz could draw the graph as .{kind}:\n  " + "\n  ".join(failures))
