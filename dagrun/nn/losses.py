"""Losses as modules; the functions, with their sources, stand in `functional/`. `reduction`: mean, sum or none."""

from __future__ import annotations

from typing import Any

from dagrun.array import Array
from dagrun.nn import functional as F
from dagrun.nn.module import Module


class _Loss(Module):
    """A function of inputs and targets, and of options whose names and defaults `options` gives.

    Options that are arrays (class weights) are buffers: they move with the module.
    """

    function: Any = staticmethod(F.mse_loss)
    options: dict[str, Any] = {}  # noqa: RUF012  (read only)

    def __init__(self, *values: Any, **named: Any) -> None:
        super().__init__()
        known = {**self.options, "reduction": "mean"} if "reduction" not in self.options else self.options
        names = list(known)
        if len(values) > len(names) or set(named) - set(names[len(values) :]):
            raise TypeError(f"{type(self).__name__}: got {values} and {named}, expected {', '.join(names)}")
        chosen = {**known, **dict(zip(names, values, strict=False)), **named}
        if chosen["reduction"] not in ("none", "mean", "sum", "batchmean"):
            raise ValueError(f"reduction {chosen['reduction']!r}, expected 'none', 'mean' or 'sum'")
        self._names = tuple(names)
        for name, value in chosen.items():
            if name in ("weight", "pos_weight"):
                self.register_buffer(name, value)
            else:
                setattr(self, name, value)

    def forward(self, *inputs: Array) -> Array:
        value: Array = type(self).function(*inputs, **{name: getattr(self, name) for name in self._names})
        return value


def _loss(name: str, function: Any, **options: Any) -> Any:
    text = (function.__doc__ or "").strip().splitlines()[0]
    members = {"function": staticmethod(function), "options": options, "__doc__": text, "__module__": __name__}
    return type(name, (_Loss,), members)


MSELoss = _loss("MSELoss", F.mse_loss)
L1Loss = _loss("L1Loss", F.l1_loss)
SmoothL1Loss = _loss("SmoothL1Loss", F.smooth_l1_loss, reduction="mean", beta=1.0)
HuberLoss = _loss("HuberLoss", F.huber_loss, reduction="mean", delta=1.0)
BCELoss = _loss("BCELoss", F.binary_cross_entropy, weight=None)
BCEWithLogitsLoss = _loss(
    "BCEWithLogitsLoss", F.binary_cross_entropy_with_logits, weight=None, reduction="mean", pos_weight=None
)
KLDivLoss = _loss("KLDivLoss", F.kl_div, reduction="mean", log_target=False)
PoissonNLLLoss = _loss("PoissonNLLLoss", F.poisson_nll_loss, log_input=True, full=False, eps=1e-8)
GaussianNLLLoss = _loss("GaussianNLLLoss", F.gaussian_nll_loss, full=False, eps=1e-6)
HingeLoss = _loss("HingeLoss", F.hinge_loss, margin=1.0)
MultiMarginLoss = _loss("MultiMarginLoss", F.multi_margin_loss, p=1, margin=1.0, weight=None)
HingeEmbeddingLoss = _loss("HingeEmbeddingLoss", F.hinge_embedding_loss, margin=1.0)
MarginRankingLoss = _loss("MarginRankingLoss", F.margin_ranking_loss, margin=0.0)
TripletMarginLoss = _loss("TripletMarginLoss", F.triplet_margin_loss, margin=1.0, p=2.0, eps=1e-6, swap=False)
ContrastiveLoss = _loss("ContrastiveLoss", F.contrastive_loss, margin=1.0)
CosineEmbeddingLoss = _loss("CosineEmbeddingLoss", F.cosine_embedding_loss, margin=0.0)
CTCLoss = _loss("CTCLoss", F.ctc_loss, blank=0, reduction="mean", zero_infinity=False)


class NLLLoss(Module):
    """The negative log-likelihood of class numbers, from log-probabilities (N, C, *)."""

    def __init__(self, weight: Array | None = None, ignore_index: int = -100, reduction: str = "mean") -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.ignore_index, self.reduction = ignore_index, reduction

    def forward(self, input: Array, target: Array) -> Array:
        return F.nll_loss(input, target, weight=self.weight, ignore_index=self.ignore_index, reduction=self.reduction)


class CrossEntropyLoss(Module):
    """The cross-entropy of logits (N, C, *) with class numbers (N, *) or probabilities (N, C, *).

    `label_smoothing`: so much of each target is spread evenly over the classes (Szegedy et al. 2016).
    """

    def __init__(
        self, weight: Array | None = None, ignore_index: int = -100, reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.register_buffer("weight", weight)
        self.ignore_index, self.reduction, self.label_smoothing = ignore_index, reduction, label_smoothing

    def forward(self, input: Array, target: Array) -> Array:
        return F.cross_entropy(
            input, target, weight=self.weight, ignore_index=self.ignore_index, reduction=self.reduction,
            label_smoothing=self.label_smoothing,
        )  # fmt: skip


__all__ = [
    "BCELoss", "BCEWithLogitsLoss", "CTCLoss", "ContrastiveLoss", "CosineEmbeddingLoss", "CrossEntropyLoss",
    "GaussianNLLLoss", "HingeEmbeddingLoss", "HingeLoss", "HuberLoss", "KLDivLoss", "L1Loss", "MSELoss",
    "MarginRankingLoss", "MultiMarginLoss", "NLLLoss", "PoissonNLLLoss", "SmoothL1Loss", "TripletMarginLoss",
]  # fmt: skip
