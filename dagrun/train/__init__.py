"""Training loops: the trainer, its callbacks, metrics, and checkpoints that resume bit for bit."""

from dagrun.train.callbacks import Callback, Checkpoints, EarlyStopping, ProgressBar
from dagrun.train.checkpoint import CheckpointError, latest_checkpoint, load_checkpoint, save_checkpoint
from dagrun.train.metrics import Mean, accuracy, confusion_matrix, f1, perplexity, top_k_accuracy
from dagrun.train.trainer import Trainer

__all__ = [
    "Callback",
    "CheckpointError",
    "Checkpoints",
    "EarlyStopping",
    "Mean",
    "ProgressBar",
    "Trainer",
    "accuracy",
    "confusion_matrix",
    "f1",
    "latest_checkpoint",
    "load_checkpoint",
    "perplexity",
    "save_checkpoint",
    "top_k_accuracy",
]
