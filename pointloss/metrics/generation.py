# SPDX-License-Identifier: MIT
"""Distances between all pairs of two sets of clouds, and what generative models report of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pointloss import _checks
from pointloss.losses.chamfer import chamfer
from pointloss.losses.emd import emd

# Points of one call: enough to fill a GPU, and 200 MB of neighbours and distances at most.
_POINTS_PER_CALL = 1 << 22


def pairwise_chamfer(a: Tensor, b: Tensor, *, norm: int = 2, squared: bool = True) -> Tensor:
    """Chamfer distance of every cloud of a to every cloud of b; conventions as `chamfer`.

    Args:
        a: S clouds [S, N, D].
        b: T clouds [T, M, D], on a's device; dtypes as for `nearest`.
        norm: see `chamfer`.
        squared: see `chamfer`.

    Returns:
        [S, T]; not differentiable. Computed in slices, so that memory stays O(S T + N + M).

    Raises:
        ValueError: shapes or devices do not fit.
        TypeError: dtypes do not fit.
        RuntimeError: CUDA tensors in a build without CUDA.

    Determinism: deterministic.

    Example:
        >>> a = torch.zeros(2, 4, 3)
        >>> pairwise_chamfer(a, torch.ones(3, 5, 3)).tolist()
        [[6.0, 6.0, 6.0], [6.0, 6.0, 6.0]]
    """
    return _pairwise(
        "pairwise_chamfer",
        a,
        b,
        lambda x, y: chamfer(x, y, norm=norm, squared=squared, batch_reduction="none"),
    )


def pairwise_emd(a: Tensor, b: Tensor, *, squared: bool = False, rtol: float = 1e-2) -> Tensor:
    """Earth mover's distance of every cloud of a to every cloud of b; conventions as `emd`.

    Args:
        a: S clouds [S, N, D].
        b: T clouds [T, M, D], on a's device; dtypes as for `nearest`.
        squared: see `emd`.
        rtol: see `emd`.

    Returns:
        [S, T]; not differentiable.

    Raises:
        ValueError: shapes or devices do not fit.
        TypeError: dtypes do not fit.
        RuntimeError: CUDA tensors in a build without CUDA.

    Determinism: as `assign`.

    Example:
        >>> pairwise_emd(torch.zeros(1, 4, 2), torch.ones(2, 4, 2), squared=True).tolist()
        [[2.0, 2.0]]
    """
    return _pairwise(
        "pairwise_emd",
        a,
        b,
        lambda x, y: emd(x, y, squared=squared, rtol=rtol, batch_reduction="none"),
    )


def _pairwise(
    op: str, a: Tensor, b: Tensor, distance: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    _checks.tensor(op, "a", a)
    _checks.tensor(op, "b", b)
    if a.dim() != 3 or b.dim() != 3 or a.shape[2] != b.shape[2]:
        raise ValueError(
            f"{op}: a and b must have shapes [S, N, D] and [T, M, D], "
            f"got {list(a.shape)} and {list(b.shape)}"
        )
    sets, others = a.shape[0], b.shape[0]
    pairs = torch.arange(sets * others, device=a.device)
    step = max(1, _POINTS_PER_CALL // max(1, a.shape[1] + b.shape[1]))
    with torch.no_grad():
        rows = [distance(a[p // others], b[p % others]) for p in pairs.split(step)]
    return torch.cat(rows).view(sets, others) if rows else a.new_zeros(sets, others)


class GenerationMetrics(NamedTuple):
    """What is reported of a generated set against a reference set."""

    mmd: Tensor
    coverage: Tensor
    one_nna: Tensor


GenerationMetrics.mmd.__doc__ = (
    "Minimum matching distance, mean over the reference set; lower is better."
)
GenerationMetrics.coverage.__doc__ = (
    "Share of the reference set that is some generated cloud's nearest, 0..1."
)
GenerationMetrics.one_nna.__doc__ = "Leave-one-out 1-NN accuracy, 0..1; 0.5 is best."


def generation_metrics(
    generated_to_reference: Tensor, generated_to_generated: Tensor, reference_to_reference: Tensor
) -> GenerationMetrics:
    """MMD, coverage and 1-NNA from three matrices of distances, not from clouds.

    `pairwise_chamfer` and `pairwise_emd` make such a matrix of two sets of clouds.

    MMD and coverage after Achlioptas, Diamanti, Mitliagkas and Guibas 2018, section 3; 1-NNA after
    Yang, Huang, Hao, Liu, Belongie and Hariharan 2019, section 5.

    Args:
        generated_to_reference: [S, R] distances, float, for example from `pairwise_chamfer`.
        generated_to_generated: [S, S]; its diagonal is not used.
        reference_to_reference: [R, R]; its diagonal is not used.

    Returns:
        GenerationMetrics of scalars. A tie in 1-NNA goes to the generated side.

    Raises:
        ValueError: shapes do not fit or a set is empty.
        TypeError: a matrix is no tensor.

    Determinism: deterministic.

    Example:
        >>> cross = torch.tensor([[1.0, 9.0], [2.0, 9.0]])
        >>> near = torch.tensor([[0.0, 0.5], [0.5, 0.0]])
        >>> [round(v.item(), 2) for v in generation_metrics(cross, near, 20 * near)]
        [5.0, 0.5, 0.5]
    """
    matrices = {
        "generated_to_reference": generated_to_reference,
        "generated_to_generated": generated_to_generated,
        "reference_to_reference": reference_to_reference,
    }
    for name, matrix in matrices.items():
        _checks.tensor("generation_metrics", name, matrix)
    shapes = [list(matrix.shape) for matrix in matrices.values()]
    s, r = shapes[0] if len(shapes[0]) == 2 else (0, 0)
    if 0 in (s, r) or shapes[1:] != [[s, s], [r, r]]:
        clouds = any(len(shape) == 3 for shape in shapes)
        raise ValueError(
            "generation_metrics: matrices of distances must be [S, R], [S, S] and [R, R] with "
            f"S, R >= 1, got {', '.join(map(str, shapes))}"
            + "; make them of clouds [S, N, D] with pairwise_chamfer or pairwise_emd"
            * clouds
        )
    cross = generated_to_reference
    mmd = cross.amin(0).mean()
    coverage = cross.argmin(1).unique().numel() / torch.tensor(float(r), device=cross.device)
    top = torch.cat([generated_to_generated, cross], 1)
    bottom = torch.cat([cross.T, reference_to_reference], 1)
    everyone = torch.cat([top, bottom]).clone()
    everyone.fill_diagonal_(torch.inf)  # a cloud is not its own neighbour
    is_generated = torch.arange(s + r, device=cross.device) < s
    right = is_generated[everyone.argmin(1)] == is_generated
    return GenerationMetrics(mmd, coverage, right.to(cross.dtype).mean())
