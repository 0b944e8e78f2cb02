"""Methods of class-incremental learning: which samples are trained on, and with which loss.

A method is what remains of an algorithm once model, mixer and buffer are taken out. The
:class:`Trainer` calls the hooks of :class:`Method`; what a method does not care about it leaves to
the defaults.
"""

from __future__ import annotations

from gradmix_ext.continual.methods.base import Method, Stage
from gradmix_ext.continual.methods.bounds import Finetune, Joint
from gradmix_ext.continual.methods.er import ER

__all__ = ["ER", "METHODS", "Finetune", "Joint", "Method", "Stage", "method_by_name"]

METHODS = ("finetune", "er", "joint")


def method_by_name(name: str, replay: str = "union") -> Method:
    """Build a method.

    Args:
        name: One of :data:`METHODS`.
        replay: How methods with a buffer replay, ``"union"`` or ``"split"``.

    Raises:
        ValueError: the name is unknown.
    """
    if name == "finetune":
        return Finetune()
    if name == "er":
        return ER(replay)
    if name == "joint":
        return Joint()
    raise ValueError(f"unknown method '{name}': known are {', '.join(METHODS)}")
