"""Argument checks shared by the public ops, their fake implementations and the reference.

Two kinds. *Static* checks look at shapes, dtypes and devices; they cost nothing on any device and
run everywhere. *Value* checks look at indices and labels; on a GPU that would wait for the device,
so there they run only after :func:`debug_checks` has turned them on.

A kernel checks its arguments too, so the ops that are called in every step run the static checks
only after a call has failed: they then say, in the same words on every backend, what was wrong.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd import forward_ad

FLOATING_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
REDUCTIONS = ("mean", "sum", "none")

_Transform = torch._C._functorch.TransformType

_debug = False


def debug_checks(enabled: bool = True) -> None:
    """Turn the value checks that have to wait for the device on or off (off by default).

    On the CPU values are always checked. On a GPU an index or label out of range is a no-op that
    never reads or writes out of bounds; with debug checks on it is an error instead, at the price
    of a few synchronisations per call.
    """
    global _debug
    _debug = bool(enabled)


def values_checked(device: torch.device) -> bool:
    """Whether indices and labels on this device are checked in Python.

    Inside of ``torch.func.vmap`` they cannot be: a value there is many.
    """
    return (
        (device.type == "cpu" or _debug)
        and not torch.compiler.is_compiling()
        and not _is_inside(_Transform.Vmap)
    )


def is_transforming() -> bool:
    """Whether this is inside of a ``torch.func`` transform or a level of forward-mode AD.

    Tensors there do not tell whether what they wrap requires a gradient. A compiler that traces
    does not look in here: it traces transforms itself.
    """
    return not torch.compiler.is_compiling() and (
        _in_forward_mode() or torch._C._functorch.peek_interpreter_stack() is not None
    )


def is_differentiating() -> bool:
    """Whether one of those that this is inside of takes derivatives."""
    return _in_forward_mode() or _is_inside(_Transform.Grad, _Transform.Jvp)


def _in_forward_mode() -> bool:
    return forward_ad._current_level >= 0


def _is_inside(*kinds: object) -> bool:
    transforms = torch._C._functorch.get_interpreter_stack() or ()
    return any(transform.key() in kinds for transform in transforms)


def debug_enabled() -> bool:
    """Whether :func:`debug_checks` is on."""
    return _debug and not torch.compiler.is_compiling() and not _is_inside(_Transform.Vmap)


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of sums over data of ``dtype``: float32, or float64 for float64."""
    return torch.float64 if dtype == torch.float64 else torch.float32


class _Replacing:
    """Checks in this context, while an exception is handled, raise in its place.

    Users see the one that says what was wrong, not both.
    """

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            error.__suppress_context__ = True


replacing = _Replacing()


# Static checks ------------------------------------------------------------------------------------


def tensor(op: str, name: str, value: object) -> None:
    """``value`` is a tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{op}: {name} must be a tensor, got {type(value).__name__}")
    if value.layout != torch.strided:
        raise TypeError(f"{op}: {name} must be a dense tensor, got layout {value.layout}")


def floating(op: str, name: str, value: Tensor) -> None:
    """``value`` is a tensor of one of the four supported floating dtypes."""
    tensor(op, name, value)
    if value.dtype not in FLOATING_DTYPES:
        raise TypeError(
            f"{op}: {name} must be float32, float64, float16 or bfloat16, got {value.dtype}"
        )


def matrix(op: str, name: str, value: Tensor) -> None:
    """``value`` is a floating matrix."""
    floating(op, name, value)
    if value.dim() != 2:
        raise ValueError(f"{op}: {name} must have 2 dimensions, got shape {list(value.shape)}")


def vector(
    op: str, name: str, value: Tensor, length: int, dtype: torch.dtype, device: torch.device
) -> None:
    """``value`` is a vector of ``length`` elements of ``dtype`` on ``device``."""
    tensor(op, name, value)
    if value.dtype != dtype:
        raise TypeError(f"{op}: {name} must be {dtype}, got {value.dtype}")
    if value.dim() != 1 or value.shape[0] != length:
        raise ValueError(f"{op}: {name} must have shape [{length}], got {list(value.shape)}")
    same_device(op, name, value, device)


def labels_alone(op: str, target: Tensor) -> None:
    """``target`` is a vector of labels, however long."""
    tensor(op, "target", target)
    if target.dim() != 1:
        raise ValueError(f"{op}: target must have 1 dimension, got shape {list(target.shape)}")
    vector(op, "target", target, target.shape[0], torch.int64, target.device)


def same_device(op: str, name: str, value: Tensor, device: torch.device) -> None:
    """``value`` lives on ``device``."""
    if value.device != device:
        raise ValueError(f"{op}: {name} must be on {device}, got {value.device}")


def without_grad(op: str, **values: Tensor) -> None:
    """No gradient is asked for, since none is computed."""
    for name, value in values.items():
        if value.requires_grad:
            raise ValueError(f"{op}: {name} must not require grad: no gradient is computed for it")


def as_lam(op: str, value: Tensor | float, like: Tensor, name: str = "lam") -> Tensor:
    """λ as a tensor, for which no gradient is computed; a Python number becomes a 0-dim tensor."""
    if isinstance(value, Tensor):
        without_grad(op, **{name: value})
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{op}: {name} must be a tensor or a number, got {type(value).__name__}")
    # float64 so that float64 data sees the number itself and not its float32 rounding
    return torch.full((), float(value), dtype=torch.float64, device=like.device)


def lam(op: str, value: Tensor | float, length: int, like: Tensor, name: str = "lam") -> Tensor:
    """λ as a tensor: a scalar, [1] or [``length``]."""
    value = as_lam(op, value, like, name)
    if value.dtype not in FLOATING_DTYPES:
        raise TypeError(f"{op}: {name} must be floating point, got {value.dtype}")
    if value.dim() > 1 or (value.dim() == 1 and value.shape[0] not in (1, length)):
        raise ValueError(
            f"{op}: {name} must be a scalar or have shape [{length}], got {list(value.shape)}"
        )
    same_device(op, name, value, like.device)
    return value


def sample_weight(op: str, value: Tensor, length: int, like: Tensor) -> None:
    """``value`` is a floating vector, for which no gradient is computed."""
    floating(op, "sample_weight", value)
    vector(op, "sample_weight", value, length, value.dtype, like.device)
    without_grad(op, sample_weight=value)


def choice(op: str, name: str, value: str, allowed: tuple[str, ...]) -> None:
    """``value`` is one of ``allowed``."""
    if value not in allowed:
        raise ValueError(f"{op}: {name} must be one of {', '.join(allowed)}, got {value!r}")


def class_mask(op: str, value: Tensor | None, classes: int, device: torch.device) -> None:
    """``value`` is absent or a boolean vector over the classes."""
    if value is not None:
        vector(op, "class_mask", value, classes, torch.bool, device)


def last_layer(
    op: str,
    features: Tensor,
    logits: Tensor,
    target: Tensor,
    partner_target: Tensor | None,
    class_mask_: Tensor | None,
) -> None:
    """Features [N, d], logits [N, C] and labels [N] of the samples of one batch agree."""
    matrix(op, "features", features)
    matrix(op, "logits", logits)
    if features.dtype != logits.dtype:
        raise TypeError(
            f"{op}: features and logits must have one dtype, got {features.dtype} "
            f"and {logits.dtype}"
        )
    if features.shape[0] != logits.shape[0]:
        raise ValueError(
            f"{op}: features and logits must have as many rows, got {features.shape[0]} "
            f"and {logits.shape[0]}"
        )
    same_device(op, "features", features, logits.device)
    samples, classes = logits.shape
    vector(op, "target", target, samples, torch.int64, logits.device)
    if partner_target is not None:
        vector(op, "partner_target", partner_target, samples, torch.int64, logits.device)
    class_mask(op, class_mask_, classes, logits.device)


# Value checks -------------------------------------------------------------------------------------


def _first(bad: Tensor) -> int | None:
    """The position of the first True, or None; a tensor without values has none."""
    if bad.is_meta or isinstance(bad, FakeTensor):
        return None
    positions = bad.nonzero()
    return int(positions[0, 0]) if positions.shape[0] else None


def in_range(op: str, name: str, index: Tensor, bound: int, of: str) -> None:
    """Every index is in [0, bound)."""
    at = _first((index < 0) | (index >= bound))
    if at is not None:
        raise RuntimeError(f"{op}: {name}[{at}] = {int(index[at])} is out of range for {of}")


def nonzero(op: str, name: str, value: Tensor) -> None:
    """No element is zero."""
    at = _first(value == 0)
    if at is not None:
        raise RuntimeError(f"{op}: {name}[{at}] is zero")


def labels(op: str, name: str, label: Tensor, classes: int, class_mask_: Tensor | None) -> None:
    """Every label is in [0, classes) and a class that ``class_mask_`` allows."""
    in_range(op, name, label, classes, f"{classes} classes")
    if class_mask_ is not None:
        at = _first(~class_mask_[label])
        if at is not None:
            raise RuntimeError(
                f"{op}: {name}[{at}] = {int(label[at])} is not a class of class_mask"
            )
