"""Optimizers, learning rate schedules, clipping of gradients and loss scaling, with PyTorch's names and order.

    optimizer = dr.optim.Adam(model.parameters(), lr=1e-3)
    for x, y in loader:
        optimizer.zero_grad()
        loss(model(x), y).backward()
        optimizer.step()                    # recorded, as few native operations for each group; waits for nothing

optimizer.py holds what all share; each rule stands once, as a formula, in the file of its family.
"""

from dagrun.optim import lr_scheduler as lr_scheduler
from dagrun.optim.adam import Adam, AdamW, NAdam
from dagrun.optim.adaptive import Adadelta, Adagrad, RMSprop, Rprop
from dagrun.optim.clipping import clip_grad_norm_, clip_grad_value_
from dagrun.optim.lamb import LAMB
from dagrun.optim.lbfgs import LBFGS
from dagrun.optim.newton import BFGS, Newton
from dagrun.optim.optimizer import Optimizer
from dagrun.optim.scaling import LossScaler
from dagrun.optim.sgd import SGD

__all__ = [
    "BFGS",
    "LAMB",
    "LBFGS",
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "LossScaler",
    "NAdam",
    "Newton",
    "Optimizer",
    "RMSprop",
    "Rprop",
    "clip_grad_norm_",
    "clip_grad_value_",
    "lr_scheduler",
]
