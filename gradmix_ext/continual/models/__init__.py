"""Models by name: an MLP, a small CNN, ResNet-32 of CIFAR, and those of torchvision and timm."""

from __future__ import annotations

from gradmix_ext.continual.models.by_name import build_model, model_names
from gradmix_ext.continual.models.cnn import small_cnn
from gradmix_ext.continual.models.mlp import mlp
from gradmix_ext.continual.models.resnet32 import ResNet32
from gradmix_ext.continual.models.seeded import seeded

__all__ = ["ResNet32", "build_model", "mlp", "model_names", "seeded", "small_cnn"]
