"""Optimizers, learning rate schedules, clipping of gradients and loss scaling, with PyTorch's names and order.

    optimizer = dr.optim.Adam(model.parameters(), lr=1e-3)
    for x, y in loader:
        optimizer.zero_grad()
        loss(model(x), y).backward()
        optimizer.step()                    # recorded, as few native operations for each group; waits for nothing

optimizer.py holds what all share; each rule stands once, as a formula, in the file of its family.
"""

from dagrun.optim.adam import Adam, AdamW, NAdam
from dagrun.optim.optimizer import Optimizer
from dagrun.optim.sgd import SGD

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "NAdam",
    "Optimizer",
]
