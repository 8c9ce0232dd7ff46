"""Data, optimizers, schedules, metrics, the trainer, checkpoints and recipes. Knows layers and kernels."""

from . import callbacks, data, metrics, optim
from .capture import CaptureError, capture
from .checkpoint import load, load_checkpoint, save, save_checkpoint
from .clip import clip_grad_norm_, clip_grad_value_
from .trainer import Trainer

__all__ = [
    "CaptureError",
    "Trainer",
    "callbacks",
    "capture",
    "clip_grad_norm_",
    "clip_grad_value_",
    "data",
    "load",
    "load_checkpoint",
    "metrics",
    "optim",
    "save",
    "save_checkpoint",
]
