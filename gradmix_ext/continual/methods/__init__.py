"""Methods of class-incremental learning: which samples are trained on, and with which loss.

A method is what remains of an algorithm once model, mixer and buffer are taken out. The
:class:`Trainer` calls the hooks of :class:`Method`; what a method does not care about it leaves to
the defaults.
"""

from __future__ import annotations

import inspect
from typing import Any

from gradmix_ext.continual.methods.agem import AGEM
from gradmix_ext.continual.methods.base import Method, Stage
from gradmix_ext.continual.methods.bounds import Finetune, Joint
from gradmix_ext.continual.methods.derpp import DERPlusPlus
from gradmix_ext.continual.methods.er import ER
from gradmix_ext.continual.methods.er_ace import ERACE
from gradmix_ext.continual.methods.icarl import ICaRL
from gradmix_ext.continual.methods.rehearsal import Rehearsal

__all__ = [
    "AGEM",
    "ER",
    "ERACE",
    "METHODS",
    "DERPlusPlus",
    "Finetune",
    "ICaRL",
    "Joint",
    "Method",
    "Rehearsal",
    "Stage",
    "method_by_name",
    "method_option_names",
]

#: The methods by the names of the command line.
METHODS: dict[str, type[Method]] = {
    "finetune": Finetune,
    "er": ER,
    "er-ace": ERACE,
    "der++": DERPlusPlus,
    "icarl": ICaRL,
    "a-gem": AGEM,
    "joint": Joint,
}


def method_by_name(name: str, replay: str = "union", **options: Any) -> Method:
    """Build a method by its name.

    Args:
        name: One of :data:`~gradmix_ext.continual.METHODS`.
        replay: How ER and iCaRL replay, ``"union"`` or ``"split"``; the other methods have one way
            only.
        **options: Settings of any method, such as ``distill_weight``; those that this one does not
            have are left out.

    Raises:
        ValueError: there is no such method, or an option has a value that it cannot have.
        TypeError: no method at all has such an option.
    """
    if name not in METHODS:
        raise ValueError(f"unknown method '{name}': known are {', '.join(METHODS)}")
    options["replay"] = replay
    for option in options:
        if not any(option in method_option_names(method) for method in METHODS):
            raise TypeError(f"no method has an option '{option}'")
    known = method_option_names(name)
    return METHODS[name](**{key: value for key, value in options.items() if key in known})


def method_option_names(name: str) -> list[str]:
    """The settings of a method that can be given by name."""
    return sorted(inspect.signature(METHODS[name]).parameters)
