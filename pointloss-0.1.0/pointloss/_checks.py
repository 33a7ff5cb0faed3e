# SPDX-License-Identifier: MIT
"""Errors for people: op, argument, what was expected, what was given.

Nothing here looks at values, so nothing waits for a GPU.
"""

from __future__ import annotations

import sys
import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from pointloss._extension import HAS_CUDA, cuda_cure
from pointloss.ops._injection import Order

MAX_DIM = 64
HALVES = (torch.float16, torch.bfloat16)  # computed in float32
FLOATS = (*HALVES, torch.float32, torch.float64)


class Clouds(NamedTuple):
    """Two batches of clouds as the ops take them."""

    x: Tensor  # [B, N, D] float32 or float64
    y: Tensor  # [B, M, D] like x
    x_lengths: Tensor | None  # int64 [B]
    y_lengths: Tensor | None  # int64 [B]
    single: bool  # the caller gave one cloud without a batch axis
    x_order: Order | None = None  # of the points of x, if a mask has brought some to the front
    y_order: Order | None = None

    def swapped(self) -> Clouds:
        """The same with x and y exchanged."""
        return Clouds(
            self.y, self.x, self.y_lengths, self.x_lengths, self.single, self.y_order, self.x_order
        )

    def at_x(self, values: Tensor) -> Tensor:
        """Values [B, N, ...] of the points of x, in the rows of x as given."""
        return values if self.x_order is None else self.x_order.undo(values)

    def at_y(self, values: Tensor) -> Tensor:
        """Values [B, M, ...] of the points of y, in the rows of y as given."""
        return values if self.y_order is None else self.y_order.undo(values)

    def into_x(self, idx: Tensor) -> Tensor:
        """Indices into x as indices into x as given."""
        return idx if self.x_order is None else self.x_order.name(idx)

    def into_y(self, idx: Tensor) -> Tensor:
        """Indices into y as indices into y as given."""
        return idx if self.y_order is None else self.y_order.name(idx)


def clouds(
    op: str,
    x: Tensor,
    y: Tensor,
    x_lengths: Tensor | None = None,
    y_lengths: Tensor | None = None,
    x_mask: Tensor | None = None,
    y_mask: Tensor | None = None,
) -> Clouds:
    """Check two clouds, their lengths and masks; bring them to [B, N, D] in float32 or float64.

    Clouds of two dtypes are promoted as torch promotes them. `.to` is differentiable, so that each
    gradient comes back in its own cloud's dtype. A mask becomes lengths: its points are brought to
    the front, in their sequence, so that everything behind knows lengths alone. What has a number
    for each point goes in and out by `per_point`, `at_x` and `into_x`.
    """
    _check_types(op, x, y)
    _check_shapes(op, x, y)
    _warn_of_threes(op, x, y)
    single = x.dim() == 2
    if x.dtype != y.dtype or x.dtype in HALVES:
        dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
        x, y = x.to(dtype), y.to(dtype)
    if single:
        x, y = x.unsqueeze(0), y.unsqueeze(0)
    x_lengths = lengths(op, "x_lengths", x_lengths, x)
    y_lengths = lengths(op, "y_lengths", y_lengths, x)
    if x_mask is None and y_mask is None:
        return Clouds(x, y, x_lengths, y_lengths, single)
    x, x_lengths, x_order = _compact(op, "x", x_mask, x, x_lengths, single)
    y, y_lengths, y_order = _compact(op, "y", y_mask, y, y_lengths, single)
    return Clouds(x, y, x_lengths, y_lengths, single, x_order, y_order)


def pair(op: str, **named: Tensor) -> None:
    """Raise what `clouds` raises of two clouds, in the words of a caller who names them otherwise.

    For pointloss.compat: first the cloud that is x further down, then the one that is y.
    """
    (x_name, x), (y_name, y) = named.items()
    _check_types(op, x, y, x_name, y_name)
    _check_shapes(op, x, y, x_name, y_name)


def choice(op: str, name: str, value: object, allowed: tuple[object, ...]) -> None:
    """Raise ValueError unless value is one of `allowed`."""
    if value not in allowed:
        listed = ", ".join(repr(a) for a in allowed)
        raise ValueError(f"{op}: {name} must be one of {listed}, got {value!r}")


def not_negative(op: str, name: str, value: float) -> None:
    """Raise ValueError unless value is a number >= 0; NaN is none."""
    if not value >= 0:
        raise ValueError(f"{op}: {name} must be a number >= 0, got {value}")


def tensor(op: str, name: str, value: object) -> None:
    """Raise TypeError unless value is a tensor, and say how to make one of it."""
    if isinstance(value, Tensor):
        return
    cure = ""
    if isinstance(value, list | tuple):
        of_tensors = len(value) > 0 and isinstance(value[0], Tensor)
        cure = f"; did you mean torch.{'stack' if of_tensors else 'tensor'}({name})?"
    elif hasattr(value, "__array__"):
        cure = f"; did you mean torch.from_numpy({name})?"
    raise TypeError(f"{op}: {name} must be a torch.Tensor, got {type(value).__name__}{cure}")


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the line outside of pointloss and torch that called; by default once per line."""
    level = 1
    frame = sys._getframe()
    while frame.f_back and frame.f_globals.get("__name__", "").split(".")[0] in (
        "pointloss",
        "torch",
    ):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


def per_point(
    op: str, name: str, values: Tensor | None, cloud: Tensor, order: Order | None
) -> Tensor | None:
    """Check weights [B, N] (or [N] for a single cloud) of a cloud that `clouds` returned."""
    if values is None:
        return None
    values = in_shape(op, name, values, tuple(cloud.shape[:2]), cloud, True).to(cloud.dtype)
    return values if order is None else order.apply(values)


def per_cloud(op: str, name: str, values: Tensor | None, cloud: Tensor) -> Tensor | None:
    """Check weights [B] of the clouds that `clouds` returned."""
    if values is None:
        return None
    return in_shape(op, name, values, tuple(cloud.shape[:1]), cloud, True).to(cloud.dtype)


def lengths(op: str, name: str, lengths: Tensor | None, x: Tensor) -> Tensor | None:
    """Check lengths, int [B], of clouds x [B, N, D]."""
    if lengths is None:
        return None
    tensor(op, name, lengths)
    if lengths.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"{op}: {name} must be int32 or int64, got {_name(lengths.dtype)}")
    batch = x.shape[0]
    if tuple(lengths.shape) != (batch,) and not (lengths.dim() == 0 and batch == 1):
        raise ValueError(f"{op}: {name} must have shape [{batch}], got {list(lengths.shape)}")
    if lengths.device != x.device:
        raise ValueError(f"{op}: {name} must be on {x.device}, got {lengths.device}")
    return lengths.to(torch.int64).reshape(batch)


def in_shape(
    op: str,
    name: str,
    values: Tensor,
    shape: tuple[int, ...],
    cloud: Tensor,
    unbatched: bool,
    integer: bool = False,
) -> Tensor:
    """Check shape, kind of numbers and device; if `unbatched`, a batch axis of 1 may be missing."""
    tensor(op, name, values)
    given = tuple(values.shape)
    if given != shape and not (unbatched and (1, *given) == shape):
        raise ValueError(f"{op}: {name} must have shape {list(shape)}, got {list(given)}")
    dtype = values.dtype
    if integer and (dtype.is_floating_point or dtype.is_complex or dtype == torch.bool):
        raise TypeError(f"{op}: {name} must be integer, got {_name(dtype)}")
    if not integer and not dtype.is_floating_point:
        raise TypeError(f"{op}: {name} must be floating point, got {_name(dtype)}")
    if values.device != cloud.device:
        raise ValueError(f"{op}: {name} must be on {cloud.device}, got {values.device}")
    return values.reshape(shape)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _check_types(op: str, x: Tensor, y: Tensor, x_name: str = "x", y_name: str = "y") -> None:
    for name, value in ((x_name, x), (y_name, y)):
        tensor(op, name, value)
        if value.dtype not in FLOATS:
            raise TypeError(
                f"{op}: {name} must be float16, bfloat16, float32 or float64, "
                f"got {_name(value.dtype)}"
            )
    device = x.device
    if device != y.device:
        raise ValueError(
            f"{op}: {x_name} and {y_name} must be on one device, got {device} and {y.device}"
        )
    kind = device.type
    if kind not in ("cpu", "cuda", "meta"):
        raise RuntimeError(f"{op}: only CPU and CUDA tensors are supported, got {device}")
    if kind == "cuda" and not HAS_CUDA:
        raise RuntimeError(f"{op}: {cuda_cure()}")


def _check_shapes(op: str, x: Tensor, y: Tensor, x_name: str = "x", y_name: str = "y") -> None:
    given, other = x.shape, y.shape
    if len(given) not in (2, 3):
        raise ValueError(f"{op}: {x_name} must have shape [B, N, D] or [N, D], got {list(given)}")
    d = given[-1]
    if len(other) != len(given) or other[-1] != d or (len(given) == 3 and other[0] != given[0]):
        raise ValueError(_shapes_differ(op, x, y, x_name, y_name))
    if not 1 <= d <= MAX_DIM:
        hint = _transposed(x_name) if 1 <= given[-2] <= MAX_DIM < d else ""
        raise ValueError(
            f"{op}: points must have 1 to {MAX_DIM} coordinates, got {x_name} of shape "
            f"{list(given)}{hint}"
        )


def _shapes_differ(op: str, x: Tensor, y: Tensor, x_name: str, y_name: str) -> str:
    d = x.shape[-1]
    want = f"[{x.shape[0]}, M, {d}]" if x.dim() == 3 else f"[M, {d}]"
    hint = ""
    if y.dim() == x.dim():
        # The cloud with the longer rows is the likelier to lie on its side.
        if y.shape[-1] > d and y.shape[-2] == d:
            hint = _transposed(y_name)
        elif x.shape[-2] == y.shape[-1]:
            hint = _transposed(x_name)
    return f"{op}: {y_name} must have shape {want}, got {list(y.shape)}{hint}"


def _transposed(name: str) -> str:
    return f"; did you mean {name}.transpose(-1, -2)?"


def _warn_of_threes(op: str, x: Tensor, y: Tensor) -> None:
    """Clouds [B, 3, N] with N <= 64 pass as three points each; only their owner knows better."""
    d = x.shape[-1]
    if d > 3 and not torch.compiler.is_compiling() and x.shape[-2] == y.shape[-2] == 3:
        warn(
            f"{op}: x and y are taken as clouds of 3 points with {d} coordinates each; if they are "
            f"{d} points with 3 coordinates, pass x.transpose(-1, -2) and y.transpose(-1, -2)"
        )


def _compact(
    op: str, name: str, mask: Tensor | None, cloud: Tensor, lengths: Tensor | None, single: bool
) -> tuple[Tensor, Tensor | None, Order | None]:
    """The cloud with the points of the mask at the front, their number and their order."""
    if mask is None:
        return cloud, lengths, None
    tensor(op, f"{name}_mask", mask)
    if lengths is not None:
        raise ValueError(f"{op}: give {name}_lengths or {name}_mask, not both")
    if mask.dtype != torch.bool:
        raise TypeError(f"{op}: {name}_mask must be bool, got {_name(mask.dtype)}")
    shape, given = tuple(cloud.shape[:2]), tuple(mask.shape)
    if given != shape and not (single and (1, *given) == shape):
        raise ValueError(f"{op}: {name}_mask must have shape {list(shape)}, got {list(given)}")
    if mask.device != cloud.device:
        raise ValueError(f"{op}: {name}_mask must be on {cloud.device}, got {mask.device}")
    mask = mask.reshape(shape)
    if shape[1] == 0:
        return cloud, mask.sum(1), None
    order = Order.of(mask)
    return order.apply(cloud), mask.sum(1), order


class Arrays:
    """The tensors of one call: one device, one compute dtype, one size for each letter of an axis.

    Axes are written "B N 3": a number is a fixed size, a letter is bound by the first argument that
    has it, and B is the batch axis. If the first argument lacks it, the call is of a single sample,
    and so are all other arguments. The tensors that `take` and `mask` return have it always.
    """

    def __init__(self, op: str, **floats: Tensor | None) -> None:
        self.op = op
        self.dtype = torch.float32  # halves are computed in it
        self.device: torch.device | None = None
        self.single: bool | None = None
        self._sizes: dict[str, int] = {}
        for name, value in floats.items():
            if value is None:
                continue
            self._place(name, value)
            if value.dtype not in FLOATS:
                raise TypeError(
                    f"{op}: {name} must be float16, bfloat16, float32 or float64, "
                    f"got {_name(value.dtype)}"
                )
            self.dtype = torch.promote_types(self.dtype, value.dtype)

    def take(self, name: str, value: Tensor, axes: str, *, shared: bool = False) -> Tensor:
        """`value` with a batch axis and in the compute dtype; `shared`: one may serve the batch."""
        return self._shape(name, value, axes, shared).to(self.dtype)

    def maybe(self, name: str, value: Tensor | None, axes: str) -> Tensor | None:
        """`take` of an argument that may be None."""
        return None if value is None else self.take(name, value, axes)

    def mask(self, name: str, value: Tensor | None, axes: str) -> Tensor:
        """A bool tensor with a batch axis; None is all True."""
        if value is None:
            shape = [int(a) if a.isdigit() else self._sizes[a] for a in axes.split()]
            return torch.ones(shape, dtype=torch.bool, device=self.device)
        self._place(name, value)
        if value.dtype != torch.bool:
            raise TypeError(f"{self.op}: {name} must be bool, got {_name(value.dtype)}")
        return self._shape(name, value, axes, False)

    def _place(self, name: str, value: Tensor) -> None:
        tensor(self.op, name, value)
        if self.device is None:
            self.device = value.device
        if value.device != self.device:
            raise ValueError(f"{self.op}: {name} must be on {self.device}, got {value.device}")

    def _shape(self, name: str, value: Tensor, axes: str, shared: bool) -> Tensor:
        letters = axes.split()
        sizes = [int(a) if a.isdigit() else self._sizes.get(a, a) for a in letters]
        kinds = [sizes, sizes[1:]] if self.single is None or shared else [sizes]
        if self.single:
            kinds = [sizes[1:]]
        given = list(value.shape)
        for kind in kinds:
            if len(kind) == len(given) and all(
                isinstance(k, str) or k == g for k, g in zip(kind, given, strict=True)
            ):
                break
        else:
            wanted = " or ".join("[" + ", ".join(map(str, kind)) + "]" for kind in kinds)
            raise ValueError(f"{self.op}: {name} must have shape {wanted}, got {given}")
        if len(given) < len(letters):
            if self.single is None:
                self._sizes["B"] = 1
            self.single = True if self.single is None else self.single
            value = value.unsqueeze(0).expand(self._sizes["B"], *given)
        elif self.single is None:
            self.single = False
        for letter, size in zip(letters, value.shape, strict=True):
            if not letter.isdigit():
                self._sizes[letter] = size
        return value
