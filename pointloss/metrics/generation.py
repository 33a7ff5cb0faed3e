# SPDX-License-Identifier: MIT
"""Distances between all pairs of two sets of clouds, and what generative models report of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, cast, overload

import torch
from torch import Tensor

from pointloss import _checks
from pointloss.metrics.occupancy_jsd import cloud_set, occupancy_jsd
from pointloss.ops.chamfer import chamfer
from pointloss.ops.emd import emd

# Points of one call: enough to fill a GPU, and 200 MB of neighbours and distances at most.
_POINTS_PER_CALL = 1 << 22

_MEASURES = ("chamfer", "emd", "jsd")


def pairwise_chamfer(
    a: Tensor | Sequence[Tensor],
    b: Tensor | Sequence[Tensor] | None = None,
    *,
    a_lengths: Tensor | None = None,
    b_lengths: Tensor | None = None,
    norm: int = 2,
    squared: bool = True,
) -> Tensor:
    """Chamfer distance of every cloud of a to every cloud of b; conventions as `chamfer`.

    Args:
        a: S clouds [S, N, D], or a list of [N_i, D].
        b: T clouds [T, M, D], or a list, on a's device; dtypes as for `nearest`. None is a itself,
            of which each pair is computed once.
        a_lengths: int [S], the valid points of each cloud of a; not for a list.
        b_lengths: int [T], likewise for b.
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

    def distance(x: Tensor, y: Tensor, n: Tensor | None, m: Tensor | None) -> Tensor:
        return chamfer(
            x, y, x_lengths=n, y_lengths=m, norm=norm, squared=squared, batch_reduction="none"
        )

    return _pairwise("pairwise_chamfer", a, b, a_lengths, b_lengths, distance)


def pairwise_emd(
    a: Tensor | Sequence[Tensor],
    b: Tensor | Sequence[Tensor] | None = None,
    *,
    a_lengths: Tensor | None = None,
    b_lengths: Tensor | None = None,
    squared: bool = False,
    rtol: float = 1e-2,
) -> Tensor:
    """Earth mover's distance of every cloud of a to every cloud of b; conventions as `emd`.

    Args:
        a: S clouds [S, N, D], or a list of [N_i, D].
        b: T clouds [T, M, D], or a list, on a's device; dtypes as for `nearest`. None is a itself,
            of which each pair is computed once.
        a_lengths: int [S], the valid points of each cloud of a; not for a list.
        b_lengths: int [T], likewise for b.
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

    def distance(x: Tensor, y: Tensor, n: Tensor | None, m: Tensor | None) -> Tensor:
        return emd(
            x, y, x_lengths=n, y_lengths=m, squared=squared, rtol=rtol, batch_reduction="none"
        )

    return _pairwise("pairwise_emd", a, b, a_lengths, b_lengths, distance)


_Distance = Callable[[Tensor, Tensor, Tensor | None, Tensor | None], Tensor]


def _pairwise(
    op: str,
    a: Tensor | Sequence[Tensor],
    b: Tensor | Sequence[Tensor] | None,
    a_lengths: Tensor | None,
    b_lengths: Tensor | None,
    distance: _Distance,
) -> Tensor:
    a, a_lengths = cloud_set(op, "a", a, a_lengths)
    if b is None:
        if b_lengths is not None:
            raise ValueError(f"{op}: b_lengths need b")
        i, j = torch.triu_indices(len(a), len(a), 1, device=a.device)
        upper = _distances(a, a, a_lengths, a_lengths, i, j, distance)
        half = upper.new_zeros(len(a), len(a)).index_put((i, j), upper)
        return half + half.T
    b, b_lengths = cloud_set(op, "b", b, b_lengths)
    if a.shape[2] != b.shape[2]:
        raise ValueError(
            f"{op}: a and b must have shapes [S, N, D] and [T, M, D], "
            f"got {list(a.shape)} and {list(b.shape)}"
        )
    if a.device != b.device:
        raise ValueError(f"{op}: a and b must be on one device, got {a.device} and {b.device}")
    pairs = torch.arange(len(a) * len(b), device=a.device)
    i, j = pairs // max(1, len(b)), pairs % max(1, len(b))
    return _distances(a, b, a_lengths, b_lengths, i, j, distance).view(len(a), len(b))


@torch.no_grad()
def _distances(
    a: Tensor,
    b: Tensor,
    a_lengths: Tensor | None,
    b_lengths: Tensor | None,
    i: Tensor,
    j: Tensor,
    distance: _Distance,
) -> Tensor:
    """The distances of clouds a[i] to b[j], in slices."""
    step = max(1, _POINTS_PER_CALL // max(1, a.shape[1] + b.shape[1]))

    def lengths(all_of_them: Tensor | None, k: Tensor) -> Tensor | None:
        return None if all_of_them is None else all_of_them[k]

    # An empty choice is one slice, which has the right dtype.
    return torch.cat(
        [
            distance(a[p], b[q], lengths(a_lengths, p), lengths(b_lengths, q))
            for p, q in zip(i.split(step), j.split(step), strict=True)
        ]
    )


class GenerationMetrics(NamedTuple):
    """What is reported of a generated set against a reference set, by one distance of clouds."""

    mmd: Tensor
    coverage: Tensor
    one_nna: Tensor
    mmd_generated: Tensor
    one_nna_generated: Tensor
    one_nna_reference: Tensor


GenerationMetrics.mmd.__doc__ = (
    "Minimum matching distance, mean over the reference set; lower is better."
)
GenerationMetrics.coverage.__doc__ = (
    "Share of the reference set that is some generated cloud's nearest, 0..1."
)
GenerationMetrics.one_nna.__doc__ = "Leave-one-out 1-NN accuracy, 0..1; 0.5 is best."
GenerationMetrics.mmd_generated.__doc__ = (
    "Distance of a generated cloud to its nearest reference, mean over the generated set."
)
GenerationMetrics.one_nna_generated.__doc__ = "The 1-NN accuracy of the generated clouds alone."
GenerationMetrics.one_nna_reference.__doc__ = "The 1-NN accuracy of the reference clouds alone."


class GenerationScores(NamedTuple):
    """What is reported of generated clouds; None for what was not asked for."""

    chamfer: GenerationMetrics | None
    emd: GenerationMetrics | None
    jsd: Tensor | None


GenerationScores.chamfer.__doc__ = "By the Chamfer distance: squared, two means added."
GenerationScores.emd.__doc__ = "By the earth mover's distance: mean plain distance of a matching."
GenerationScores.jsd.__doc__ = "Divergence of the places of all points, 0..1, see occupancy_jsd."


@overload
def generation_metrics(
    generated: Tensor | Sequence[Tensor],
    reference: Tensor | Sequence[Tensor],
    reference_to_reference: None = None,
    *,
    generated_lengths: Tensor | None = None,
    reference_lengths: Tensor | None = None,
    measures: str | Sequence[str] = _MEASURES,
    rtol: float = 1e-2,
    resolution: int = 28,
) -> GenerationScores: ...


@overload
def generation_metrics(
    generated: Tensor, reference: Tensor, reference_to_reference: Tensor
) -> GenerationMetrics: ...


def generation_metrics(
    generated: Tensor | Sequence[Tensor],
    reference: Tensor | Sequence[Tensor],
    reference_to_reference: Tensor | None = None,
    *,
    generated_lengths: Tensor | None = None,
    reference_lengths: Tensor | None = None,
    measures: str | Sequence[str] = _MEASURES,
    rtol: float = 1e-2,
    resolution: int = 28,
) -> GenerationScores | GenerationMetrics:
    """MMD, coverage and 1-NNA by two distances, and JSD, of two sets of clouds.

    MMD, coverage and JSD after Achlioptas, Diamanti, Mitliagkas and Guibas 2018, section 3; 1-NNA
    after Yang, Huang, Hao, Liu, Belongie and Hariharan 2019, section 5. The conventions are theirs:
    Chamfer distance squared and both directions' means added, EMD the mean plain distance of a
    matching. Papers often print MMD-CD x 1000 and MMD-EMD x 100.

    With three matrices of distances, of whatever kind, in place of the clouds, it returns the
    GenerationMetrics by that distance alone:

        generation_metrics(pairwise_emd(g, r), pairwise_emd(g), pairwise_emd(r))

    Args:
        generated: S clouds [S, N, D], or a list of [N_i, D]. Or the distances [S, R] of generated
            to reference clouds.
        reference: R clouds [R, M, D], or a list, on the same device. Or the distances [S, S]
            between generated clouds; the diagonal is not used.
        reference_to_reference: the distances [R, R] between reference clouds, likewise; not with
            clouds.
        generated_lengths: int [S], the valid points of each generated cloud; not for a list.
        reference_lengths: int [R], likewise.
        measures: which of "chamfer", "emd" and "jsd" to compute, or one of them; EMD takes the
            longest by far. Neither this nor the lengths or what follows goes with matrices.
        rtol: of the EMD, see `emd`.
        resolution: of the JSD, whose clouds must lie in a ball of radius 0.5, see `occupancy_jsd`.

    Returns:
        GenerationScores of GenerationMetrics and a scalar; or GenerationMetrics. All are scalars. A
        tie in 1-NNA goes to the generated side. NaN among the distances makes all of them NaN. Not
        differentiable. The distances between a set's own clouds are computed once for both
        directions.

    Raises:
        ValueError: shapes, devices or options do not fit, or a set is empty.
        TypeError: dtypes do not fit.
        RuntimeError: CUDA tensors in a build without CUDA.

    Determinism: that of `assign` for EMD, else deterministic.

    Example:
        >>> g, r = torch.zeros(2, 4, 3), torch.zeros(3, 4, 3)
        >>> scores = generation_metrics(g, r)
        >>> scores.chamfer.mmd.item(), scores.jsd.item()
        (0.0, 0.0)
        >>> cross = torch.tensor([[1.0, 9.0], [2.0, 9.0]])
        >>> near = torch.tensor([[0.0, 0.5], [0.5, 0.0]])
        >>> [round(v.item(), 2) for v in generation_metrics(cross, near, 20 * near)[:3]]
        [5.0, 0.5, 0.5]
    """
    op = "generation_metrics"
    measures = (measures,) if isinstance(measures, str) else tuple(measures)
    if reference_to_reference is not None:
        given = (generated_lengths, reference_lengths, measures, rtol, resolution)
        if given != (None, None, _MEASURES, 1e-2, 28):
            raise ValueError(
                f"{op}: lengths, measures, rtol and resolution do not apply to matrices of "
                "distances; give them to pairwise_chamfer or pairwise_emd, which make the matrices"
            )
        cross, within = cast("Tensor", generated), cast("Tensor", reference)
        return _of_distances(cross, within, reference_to_reference)
    for measure in measures:
        _checks.choice(op, "measures", measure, _MEASURES)
    g, g_lengths = cloud_set(op, "generated", generated, generated_lengths)
    r, r_lengths = cloud_set(op, "reference", reference, reference_lengths)
    if 0 in (len(g), len(r)):
        raise ValueError(f"{op}: both sets need a cloud, got {len(g)} and {len(r)}")

    def by(distance: Callable[..., Tensor], **options: float) -> GenerationMetrics:
        cross = distance(g, r, a_lengths=g_lengths, b_lengths=r_lengths, **options)
        within = (distance(v, a_lengths=n, **options) for v, n in ((g, g_lengths), (r, r_lengths)))
        return _of_distances(cross, *within)

    lengths = {"a_lengths": g_lengths, "b_lengths": r_lengths}
    return GenerationScores(
        by(pairwise_chamfer) if "chamfer" in measures else None,
        by(pairwise_emd, rtol=rtol) if "emd" in measures else None,
        occupancy_jsd(g, r, **lengths, resolution=resolution) if "jsd" in measures else None,
    )


def _of_distances(
    generated_to_reference: Tensor,
    generated_to_generated: Tensor,
    reference_to_reference: Tensor,
) -> GenerationMetrics:
    """The metrics by three matrices [S, R], [S, S] and [R, R]."""
    matrices = {
        "generated_to_reference": generated_to_reference,
        "generated_to_generated": generated_to_generated,
        "reference_to_reference": reference_to_reference,
    }
    for name, matrix in matrices.items():
        _checks.tensor("generation_metrics", name, matrix)
        if not matrix.dtype.is_floating_point:
            raise TypeError(
                f"generation_metrics: {name} must be floating point, got "
                f"{str(matrix.dtype).removeprefix('torch.')}; did you mean {name}.double()?"
            )
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
    coverage = cross.argmin(1).unique().numel() / torch.tensor(float(r), device=cross.device)
    top = torch.cat([generated_to_generated, cross], 1)
    bottom = torch.cat([cross.T, reference_to_reference], 1)
    everyone = torch.cat([top, bottom]).clone()
    everyone.fill_diagonal_(torch.inf)  # a cloud is not its own neighbour
    # Rows are in the order generated, reference; the lowest index takes a tie.
    beside_generated = everyone.argmin(1) < s
    right_generated, right_reference = beside_generated[:s], ~beside_generated[s:]
    found = GenerationMetrics(
        mmd=cross.amin(0).mean(),
        coverage=coverage,
        one_nna=torch.cat([right_generated, right_reference]).to(cross.dtype).mean(),
        mmd_generated=cross.amin(1).mean(),
        one_nna_generated=right_generated.to(cross.dtype).mean(),
        one_nna_reference=right_reference.to(cross.dtype).mean(),
    )
    # argmin takes NaN for the least, so no count is to be trusted.
    unknown = everyone.isnan().any()
    return GenerationMetrics(*(torch.where(unknown, torch.nan, value) for value in found))
