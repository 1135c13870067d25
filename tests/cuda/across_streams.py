"""Memory that goes from stream to stream all the time: `compute-sanitizer python tests/cuda/across_streams.py`.

Chains of several lengths run side by side; what one drops another allocates, while copies go each way. Two buffers
that share memory too early, or a copy that leaves its bounds, is what the sanitizer tells of, and wrong values.
"""

from __future__ import annotations

import numpy as np

import dagrun as dr


def run(device: str, rounds: int) -> list[np.ndarray]:
    """The values of all rounds, in order."""
    found = []
    for number in range(rounds):
        parts = [dr.asarray(np.arange(100.0 + 37 * i) + number, device=device) for i in range(8)]
        for step in range(6):
            parts = [x[::-1] * 0.5 + step if i % 3 else x - step for i, x in enumerate(parts)]  # the old ones go
            parts[step] = parts[step].to_device("cpu:0").to_device(device) + dr.ones(parts[step].shape, device=device)
        square = dr.stack([x[:64] for x in parts])
        found += [x.numpy() for x in (*parts, square @ square.T, dr.cumsum(square, axis=1))]
    return found


def main(rounds: int = 20) -> None:
    for ours, expected in zip(run("cuda:0", rounds), run("cpu:0", rounds), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-12)
    print(f"{rounds} rounds as on the CPU")


if __name__ == "__main__":
    main()
