"""States of torchvision's models load into those here, strictly, and both give the same scores.

Where torchvision is not installed, keys and shapes are compared with those in torchvision.json, which

    python tests/models/test_torchvision.py > tests/models/torchvision.json

writes where it is.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import dagrun as dr
from dagrun import models

STORED = Path(__file__).with_name("torchvision.json")
# Images as small as the model takes, and options of torchvision's that change nothing but how long it takes.
NAMES: dict[str, tuple[int, dict[str, Any]]] = {
    "alexnet": (63, {}),
    "vgg11": (32, {"init_weights": False}),
    "resnet18": (64, {}),
    "resnet50": (64, {}),
    "googlenet": (64, {"init_weights": False}),
}


def torchvision_here() -> ModuleType:
    pytest.importorskip("torch")
    try:
        import torchvision
    except (ImportError, RuntimeError) as error:  # RuntimeError: built for another torch
        pytest.skip(f"torchvision: {error}")
    return torchvision


@pytest.mark.usefixtures("shapes_only")
@pytest.mark.parametrize("name", NAMES)
def test_states_have_the_stored_keys_and_shapes(name: str) -> None:
    stored = json.loads(STORED.read_text())
    assert stored["torchvision"] and list(stored["models"]) == list(NAMES)
    state = models.find(name).make().state_dict()
    assert {key: list(x.shape) for key, x in state.items()} == stored["models"][name]


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_those_of_torchvision(name: str) -> None:
    import_of, (size, options) = torchvision_here(), NAMES[name]
    import torch

    torch.manual_seed(0)
    theirs = getattr(import_of.models, name)(**options).eval()
    for key, value in theirs.state_dict().items():
        if "running" in key:  # 0 and 1 would hide mistakes
            value.uniform_(0.5, 1.5)
    ours = models.find(name).make().eval()
    ours.load_state_dict({key: value.numpy() for key, value in theirs.state_dict().items()})
    x = np.random.default_rng(0).standard_normal((2, 3, size, size)).astype("float32")
    with torch.no_grad():
        expected = theirs(torch.tensor(x)).numpy()
    with dr.no_grad():
        found = ours(dr.asarray(x)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def written() -> str:
    """Keys and shapes of torchvision's models, and its version."""
    import torch
    import torchvision

    with torch.device("meta"):
        states = {name: getattr(torchvision.models, name)(**NAMES[name][1]).state_dict() for name in NAMES}
    shapes = {name: {key: list(x.shape) for key, x in state.items()} for name, state in states.items()}
    lines = [
        f"{json.dumps(name)}: {{\n" + ",\n".join(f"{json.dumps(k)}: {v}" for k, v in own.items()) + "\n}"
        for name, own in shapes.items()
    ]
    return f'{{"torchvision": "{torchvision.__version__.split("+")[0]}", "models": {{\n' + ",\n".join(lines) + "\n}}\n"


if __name__ == "__main__":
    print(written(), end="")
