"""LeNet-5 learns MNIST digits on several devices: a serial program, whose graph runs on all of them at once."""

from rich.progress import track

import dagrun as dr
from dagrun import data, nn, optim

DEVICES = ["cpu:0", "cpu:1"]
BATCH, EPOCHS, RATE = 64, 16, 0.05


def loss(net, batch):
    images, labels = batch
    return nn.functional.cross_entropy(net(images), labels)


def optimizer_of(net):
    return optim.SGD(net.parameters(), RATE, momentum=0.9, weight_decay=5e-4, nesterov=True)


def step(replicas, optimizers, batch):
    """Each device takes its part of the batch; the gradients are summed over all; each updates its own copy."""
    mean = replicas.step(loss, batch)
    for optimizer in optimizers:
        optimizer.step()
    return mean


def accuracy(net, test):
    """The share of the held-out digits that the network gets right."""
    images, labels = test.arrays
    with dr.no_grad():
        return dr.train.accuracy(net.eval()(dr.asarray(images)), dr.asarray(labels)).item()


def train(seed=0, progress=True, epochs=EPOCHS):
    """Learns from 4000 digits, moved a little each time they are seen; returns the replicas and their optimizers."""
    dr.random.seed(seed)
    digits = data.mnist(seed=seed)
    moved = data.ArrayDataset(*digits.arrays, transform=data.RandomCrop(28, padding=2))
    loader = data.DataLoader(moved, BATCH, shuffle=True, drop_last=True, seed=seed)
    replicas = dr.parallel.Replicas(dr.models.LeNet5(), DEVICES)
    optimizers = [optimizer_of(net) for net in replicas.modules]
    rates = [optim.lr_scheduler.OneCycleLR(own, RATE, epochs * len(loader), cycle_momentum=False) for own in optimizers]
    for _ in track(range(epochs), "training LeNet-5", disable=not progress):
        for batch in loader:
            step(replicas, optimizers, batch)
            for rate in rates:
                rate.step()
        dr.wait()
    return replicas, optimizers


if __name__ == "__main__":
    replicas, _ = train()
    print(f"{accuracy(replicas.modules[0], data.mnist(train=False)):.1%} of the held-out digits are right")
