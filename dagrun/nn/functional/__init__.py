"""Layers and losses as functions, with PyTorch's names and argument order; gradients of any order pass through them."""

from dagrun.nn.functional.activations import *  # noqa: F403
from dagrun.nn.functional.attention import multi_head_attention, scaled_dot_product_attention
from dagrun.nn.functional.ctc import ctc_loss
from dagrun.nn.functional.linear import bilinear, linear
from dagrun.nn.functional.recurrent import recurrent
from dagrun.nn.functional.losses import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    contrastive_loss,
    cosine_embedding_loss,
    cosine_similarity,
    gaussian_nll_loss,
    hinge_embedding_loss,
    hinge_loss,
    huber_loss,
    kl_div,
    l1_loss,
    margin_ranking_loss,
    mse_loss,
    multi_margin_loss,
    pairwise_distance,
    poisson_nll_loss,
    smooth_l1_loss,
    triplet_margin_loss,
)
