# SPDX-License-Identifier: MIT
"""What the ops' autograd.Functions share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


def call(function: type[Function], *args: Any) -> Any:
    """`function.apply(*args)`, with less of Python where nothing needs it.

    Outside of torch.compile and torch.func, Function.apply binds the arguments to forward's
    signature and looks for wrappers of finished transforms, which takes longer than the op itself.
    """
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return function.apply(*args)
    return super(Function, function).apply(*args)  # type: ignore[misc]


def is_eager() -> bool:
    """Whether values may be looked at: no torch.compile, no torch.func, no other tracer."""
    return not (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack() > 0
    )


def join(
    size: int, in_dims: tuple[int | None, ...], args: tuple[Any, ...]
) -> tuple[int, list[Any]]:
    """For vmap: the mapped axis of every tensor joins the batch axis; clouds are independent.

    Args:
        size: of the mapped axis.
        in_dims: of each argument the place of that axis; None: all share the argument.
        args: x first; every tensor has a batch axis, what is no tensor stays as it is.

    Returns:
        The batch size before joining, by which results are split because the mapped axis may be
        empty, and the arguments.
    """

    def joined(value: Tensor, dim: int | None) -> Tensor:
        value = value.expand(size, *value.shape) if dim is None else value.movedim(dim, 0)
        return value.flatten(0, 1)

    batch = args[0].shape[1 if in_dims[0] == 0 else 0]
    pairs = zip(args, in_dims, strict=True)
    return batch, [joined(v, dim) if isinstance(v, Tensor) else v for v, dim in pairs]
