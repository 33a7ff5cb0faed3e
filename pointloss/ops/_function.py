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


def join(value: Tensor | None, dim: int | None, size: int) -> Tensor | None:
    """For vmap: the mapped axis, of this size, joins the batch axis; clouds are independent."""
    if value is None:
        return None
    value = value.expand(size, *value.shape) if dim is None else value.movedim(dim, 0)
    return value.flatten(0, 1)


def join_clouds(
    size: int, in_dims: tuple[int | None, ...], args: tuple[Any, ...]
) -> tuple[int, list[Any]]:
    """`join` of what most ops begin with: x, y and their lengths; the other arguments stay.

    Returns the batch size before joining, too: the results are split by it, because the mapped
    axis may be empty.
    """
    x, dim = args[0], in_dims[0]
    batch = x.shape[1 if dim == 0 else 0]
    joined = [join(*v, size) for v in zip(args[:4], in_dims[:4], strict=True)]
    return batch, [*joined, *args[4:]]
