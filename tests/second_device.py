"""A second device made of CPU memory: what lies on the wrong device is found without a GPU.

Inside of :class:`SecondDevice`, tensors made on :data:`DEVICE` hold their values in CPU memory, and
any operation that takes tensors of both devices is an error, as it is on a GPU. It says nothing
about kernels: an op computes what it computes on the CPU.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, ClassVar
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

__all__ = ["DEVICE", "SecondDevice"]

DEVICE = torch.device("meta")  # the only other one on which autograd runs without its library

_aten = torch.ops.aten
_ACROSS = (_aten._to_copy.default, _aten.copy_.default)
_BY_INDEX = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_")


class _Held(Tensor):
    """A tensor on the second device; ``held`` has the values."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> _Held:
        self = Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=DEVICE,
        )
        self.held = held
        return self

    def __repr__(self) -> str:
        return f"{self.held} on the second device"

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.held.__reduce_ex__(protocol)  # files are read to the CPU

    @classmethod
    def __torch_dispatch__(cls, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(op, args, kwargs or {})


def _run(op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The operation on the CPU, if all that it takes is on one device."""
    leaves = tree_leaves((args, kwargs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    for each in tensors:
        assert isinstance(each, _Held) or each.device != DEVICE, f"{op} was given no values"
    there = any(isinstance(each, _Held) for each in tensors)
    if there and op not in _ACROSS:
        if op._schema.name in _BY_INDEX and isinstance(args[0], _Held):
            tensors = [args[0]]  # positions may come from the CPU
        if any(not isinstance(each, _Held) and each.dim() for each in tensors):
            raise RuntimeError(f"{op}: expected all tensors to be on the same device")
    if op is _aten.copy_.default:
        there = isinstance(args[0], _Held)
    if kwargs.get("device") is not None:
        there = torch.device(kwargs["device"]) == DEVICE
        kwargs = kwargs | {"device": torch.device("cpu")}
    for each in leaves:
        # An operation gets another object for the same generator.
        if isinstance(each, _Generator.__base__) and (each._cdata in _Generator.there) != there:
            raise RuntimeError(f"{op}: expected a generator of the other device")
    result = op(*tree_map(_values, args), **tree_map(_values, kwargs))
    if not there or op is _aten._local_scalar_dense.default:
        return result
    result = tree_map(lambda leaf: _Held(leaf) if isinstance(leaf, Tensor) else leaf, result)
    return return_and_correct_aliasing(op, args, kwargs, result)


def _values(leaf: Any) -> Any:
    return leaf.held if isinstance(leaf, _Held) else leaf


class _Generator(torch.Generator):
    """A generator that says it is one of the second device."""

    there: ClassVar[set[int]] = set()

    def __new__(cls, device: torch.device | str = "cpu") -> _Generator:
        self = super().__new__(cls, "cpu")
        self._device = torch.device(device)
        if self._device == DEVICE:
            cls.there.add(self._cdata)
        else:
            cls.there.discard(self._cdata)  # of one that is gone
        return self

    @property
    def device(self) -> torch.device:
        return self._device


class _FromPython(TorchFunctionMode):
    """Numbers and lists become tensors below every dispatch, where ``meta`` holds nothing."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is Tensor.tolist:
            return _values(args[0]).tolist()
        if function in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            return function(*args, **kwargs | {"device": None}).to(kwargs["device"])
        if function in (Tensor.__getitem__, Tensor.__setitem__):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            index = tuple(torch.tensor(part) if isinstance(part, list) else part for part in index)
            args = (args[0], index, *args[2:])
        return function(*args, **kwargs)


class SecondDevice(TorchDispatchMode):
    """Context in which :data:`DEVICE` holds values."""

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(op, args, kwargs or {})

    def __enter__(self) -> SecondDevice:
        fused = "torch.optim.optimizer._get_fused_kernels_supported_devices"
        self._others = [
            _FromPython(),
            mock.patch("torch.Generator", _Generator),
            mock.patch(fused, return_value=["cpu", DEVICE.type]),
        ]
        for other in self._others:
            other.__enter__()
        super().__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, trace)
        for other in reversed(self._others):
            other.__exit__(kind, error, trace)
