"""Random numbers: parameters that are arrays, choices of given probability, copies of generators."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import dagrun as dr


def test_means_and_deviations_may_be_arrays() -> None:
    loc = dr.asarray([0.0, 100.0, -100.0], requires_grad=True)
    draws = dr.random.Generator(1).normal(loc, dr.asarray([1.0, 2.0, 0.0]))
    standard = dr.random.Generator(1).normal(size=3).numpy()
    assert draws.tolist() == [standard[0], 100 + 2 * standard[1], -100]
    draws.sum().backward()
    assert loc.grad.tolist() == [1, 1, 1]
    rows = dr.random.Generator(1).uniform(dr.asarray([[0.0], [10.0]]), [[1.0], [11.0]], size=(2, 50)).numpy()
    assert (rows.min(1) >= [0, 10]).all() and (rows.max(1) < [1, 11]).all() and rows[0].std() > 0.1


def test_choice_by_probability() -> None:
    generator = dr.random.Generator(3)
    weights = dr.asarray([1.0, 0.0, 5.0, 2.0]) / 8
    drawn = generator.choice(4, 8000, p=weights).numpy()
    assert np.bincount(drawn, minlength=4) / 1000 == pytest.approx([1, 0, 5, 2], abs=0.2)
    assert generator.choice(dr.asarray([[1, 2], [3, 4]]), p=[0, 1]).tolist() == [3, 4]
    firsts = np.zeros(3)
    for _ in range(300):
        kept = generator.choice(3, 3, replace=False, p=[0.1, 0.1, 0.8]).tolist()
        assert sorted(kept) == [0, 1, 2]
        firsts[kept[0]] += 1
    assert firsts / 300 == pytest.approx([0.1, 0.1, 0.8], abs=0.08)
    with pytest.raises(ValueError, match="expected 3 probabilities"):
        generator.choice(3, p=[0.5, 0.5])


def test_generators_are_pickled_and_copied() -> None:
    generator = dr.random.Generator(5)
    generator.random(3)
    copies = pickle.loads(pickle.dumps(generator)), copy.deepcopy(generator)
    want = generator.random(3).tolist()
    assert [other.random(3).tolist() for other in copies] == [want, want]
