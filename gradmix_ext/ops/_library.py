"""The op library `gradmix_ext::*`: how an op reaches a compiled kernel or pure PyTorch.

Schemas are defined here, from Python, and every op has its pure PyTorch implementation registered
for all devices. A compiled library registers kernels for its devices when it is loaded, and the
dispatcher prefers those from then on. The first call that reaches the pure PyTorch implementation
is what loads (and, if need be, compiles) the library; so importing the package does neither.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from gradmix_ext import _checks as checks
from gradmix_ext import loader

NAMESPACE = "gradmix_ext"
LIBRARY = torch.library.Library(NAMESPACE, "DEF")

#: What an op is where ``torch.func`` or forward-mode AD takes derivatives, which know none of
#: custom ops.
_in_pytorch: dict[torch._ops.OpOverload, Callable[..., Any]] = {}


def define(
    schema: str,
    reference: Callable[..., Any],
    fake: Callable[..., Any],
    tags: tuple[torch.Tag, ...] = (),
) -> None:
    """Register an op: its schema, its meaning and the shape of its result."""
    name = schema[: schema.index("(")]
    LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag, *tags))
    base, _, overload = name.partition(".")
    op = getattr(getattr(torch.ops.gradmix_ext, base), overload or "default")
    arguments = [argument.name for argument in op._schema.arguments]

    def by_name(*args: Any, **kwargs: Any) -> Any:
        with _without_autocast(args[0].device.type):
            return reference(**dict(zip(arguments, args, strict=False)), **kwargs)

    def fallback(*args: Any, **kwargs: Any) -> Any:
        loader.load()
        if has_kernel(op, args[0]):
            return op(*args, **kwargs)
        return by_name(*args, **kwargs)

    def fake_by_name(*args: Any, **kwargs: Any) -> Any:
        return fake(**dict(zip(arguments, args, strict=False)), **kwargs)

    _in_pytorch[op] = by_name
    LIBRARY.impl(name, fallback, "CompositeExplicitAutograd")
    torch.library.register_fake(f"{NAMESPACE}::{name}", fake_by_name, lib=LIBRARY)


def _without_autocast(device: str) -> AbstractContextManager[object]:
    """Precision as a kernel has it, which ``torch.autocast`` does not reach."""
    return (
        torch.autocast(device, enabled=False)
        if torch.is_autocast_enabled(device)
        else nullcontext()
    )


def differentiable(
    name: str, backward: Callable[..., Any], setup_context: Callable[..., None]
) -> None:
    """Register the gradient of an op."""
    torch.library.register_autograd(
        f"{NAMESPACE}::{name}", backward, setup_context=setup_context, lib=LIBRARY
    )


def call(op: torch._ops.OpOverload, *args: Any) -> Any:
    """Call a differentiable op, past its gradient formula where no gradient is asked for.

    PyTorch goes through the formula even then; it is Python, which costs more than a small op. The
    condition is its own, and what happens is what it would do in the end. Where ``torch.func`` or
    forward-mode AD takes derivatives, the op is its pure PyTorch implementation.
    """
    if checks.is_transforming():
        return (_in_pytorch[op] if checks.is_differentiating() else op)(*args)
    if torch.compiler.is_compiling() or (
        torch.is_grad_enabled() and torch._C._any_requires_grad(*args)
    ):
        return op(*args)
    with torch._C._AutoDispatchBelowAutograd():
        return op(*args)


def in_full_precision(name: str) -> None:
    """Let an op compute in float32 under ``torch.autocast``, as PyTorch's own losses do."""
    for device in ("cpu", "cuda"):
        torch.library.register_autocast(f"{NAMESPACE}::{name}", device, torch.float32, lib=LIBRARY)
    op = getattr(torch.ops.gradmix_ext, name).default
    in_pytorch = _in_pytorch[op]

    def widened(*args: Any) -> Any:
        if torch.is_autocast_enabled(args[0].device.type):
            half = (torch.float16, torch.bfloat16)
            args = tuple(
                arg.float() if isinstance(arg, Tensor) and arg.dtype in half else arg
                for arg in args
            )
        return in_pytorch(*args)

    _in_pytorch[op] = widened


def has_kernel(op: torch._ops.OpOverload, tensor: Tensor) -> bool:
    """Whether a compiled kernel of ``op`` takes tensors of this kind."""
    keys = torch._C._dispatch_keys(tensor)
    return any(
        keys.has(key) and op.has_kernel_for_dispatch_key(key)
        for key in (torch._C.DispatchKey.CPU, torch._C.DispatchKey.CUDA)
    )
