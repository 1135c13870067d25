"""A data-parallel training step of any model: what `dagrun graph`, `dagrun profile` and `dagrun scale` run."""

import dagrun as dr


def replicate(model, devices, seed=0):
    """A copy of the model on every device, each with its optimizer."""
    dr.random.seed(seed)
    replicas = dr.parallel.Replicas(model.make(), devices)
    optimizers = [dr.optim.SGD(net.parameters(), lr=0.01, momentum=0.9) for net in replicas.modules]
    return replicas, optimizers


def step(model, replicas, optimizers, batch):
    """Each device takes its part of the batch; the gradients are summed over all; each updates its own copy."""
    mean = replicas.step(lambda net, part: model.loss(net(part[0]), part[1]), batch)
    for optimizer in optimizers:
        optimizer.step()
    return mean
