# SPDX-License-Identifier: MIT
"""What pointloss is measured against: scipy on the CPU, plain torch, and every importable peer.

A baseline takes (x [B, N, 3], y [B, M, 3]) and returns what its benchmark compares.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist
from torch import Tensor

from pointloss import assign

Both = tuple[Tensor, Tensor]  # squared distances of each direction


def scipy_nearest(x: Tensor, y: Tensor) -> Both:
    """cKDTree, build and query of both directions, all cores."""
    forward, back = [], []
    for a, b in zip(x.cpu().numpy(), y.cpu().numpy(), strict=True):
        forward.append(cKDTree(b).query(a, workers=-1)[0] ** 2)
        back.append(cKDTree(a).query(b, workers=-1)[0] ** 2)
    return torch.from_numpy(np.stack(forward)), torch.from_numpy(np.stack(back))


def torch_nearest(x: Tensor, y: Tensor) -> Both:
    """The full matrix by torch.cdist without matrix products (the exact mode)."""
    d = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square()
    return d.amin(2), d.amin(1)


def scipy_k_nearest(x: Tensor, y: Tensor, k: int) -> Tensor:
    """The k least squared distances [B, N, k] by cKDTree, build and query, all cores."""
    found = [
        cKDTree(b).query(a, k=k, workers=-1)[0] ** 2
        for a, b in zip(x.cpu().numpy(), y.cpu().numpy(), strict=True)
    ]
    return torch.from_numpy(np.stack(found))


def sort_nearest(x: Tensor, y: Tensor) -> Tensor:
    """The index [B, N] of the nearest of y [B, M, 1] for each of x [B, N, 1], by sorting y."""
    values, order = y.squeeze(-1).sort()
    points = x.squeeze(-1).contiguous()
    after = torch.searchsorted(values, points).clamp(1, y.shape[1] - 1)
    closer = points - values.gather(1, after - 1) <= values.gather(1, after) - points
    return order.gather(1, torch.where(closer, after - 1, after))


def torch_k_nearest(x: Tensor, y: Tensor, k: int) -> Tensor:
    """The same by torch.topk of the full matrix of torch.cdist in its exact mode."""
    d = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square()
    return d.topk(k, largest=False).values


def scipy_assignment(x: Tensor, y: Tensor) -> Tensor:
    """linear_sum_assignment with its distance matrix: the optimal mean distance [B]."""
    costs = []
    for a, b in zip(x.cpu().double().numpy(), y.cpu().double().numpy(), strict=True):
        matrix = cdist(a, b)
        rows, columns = linear_sum_assignment(matrix)
        costs.append(matrix[rows, columns].mean())
    return torch.tensor(np.array(costs))


def scipy_optimum(x: Tensor, y: Tensor) -> Tensor:
    """The optimal mean distance of two clouds [N, D] and [M, D], by scipy, sooner.

    What is added to a whole row or column of a square matrix changes the cost of all matchings by
    as much, and not which one is the best. So the prices of a solver, right or wrong, leave scipy
    little to search for: a blob of 2048 takes 0.2 s instead of 6. Rows of zeros make it square.
    """
    small, large = (p.cpu().double() for p in ((x, y) if len(x) <= len(y) else (y, x)))
    matrix = np.zeros((len(large), len(large)))
    matrix[: len(small)] = cdist(small.numpy(), large.numpy())
    matrix += assign(small, large, rtol=1e-6).price.numpy()
    matrix -= matrix.min(1, keepdims=True)
    columns = linear_sum_assignment(matrix)[1][: len(small)]
    return (small - large[columns]).norm(dim=1).mean()


def _pytorch3d() -> Callable[[Tensor, Tensor], Both]:
    knn = importlib.import_module("pytorch3d.ops").knn_points
    return lambda x, y: (knn(x, y, K=1).dists[..., 0], knn(y, x, K=1).dists[..., 0])


def _kaolin() -> Callable[[Tensor, Tensor], Both]:
    sided = importlib.import_module("kaolin.metrics.pointcloud").sided_distance
    return lambda x, y: (sided(x, y)[0], sided(y, x)[0])


def _chamfer3d() -> Callable[[Tensor, Tensor], Both]:
    module = importlib.import_module("chamfer3D.dist_chamfer_3D").chamfer_3DDist()
    return lambda x, y: module(x, y)[:2]


def _msn_emd() -> Callable[[Tensor, Tensor], Tensor]:
    module = importlib.import_module("emd_module").emdModule()
    return lambda x, y: module(x, y, 0.005, 50)[1]  # as its authors train with


def _linear_assignment() -> Callable[[Tensor, Tensor], Tensor]:
    solve = importlib.import_module("torch_linear_assignment").batch_linear_assignment
    return lambda x, y: solve(torch.cdist(x, y))


def _on_clouds(solve: Callable[[Any], Any]) -> Callable[[Tensor, Tensor], Tensor]:
    """A CPU solver of one matrix of distances, called once per cloud; returns each row's column."""

    def solve_all(x: Tensor, y: Tensor) -> Tensor:
        pairs = zip(x.cpu().double().numpy(), y.cpu().double().numpy(), strict=True)
        return torch.from_numpy(np.stack([solve(cdist(a, b)) for a, b in pairs])).to(x.device)

    return solve_all


def _on_costs(solve: Callable[[Any], Any]) -> Callable[[Tensor], Tensor]:
    """The same of a batch of matrices of costs."""
    return lambda cost: torch.from_numpy(np.stack([solve(c) for c in cost.double().numpy()]))


def _scipy() -> Callable[[Any], Any]:
    return lambda matrix: linear_sum_assignment(matrix)[1]


def _lapx() -> Callable[[Any], Any]:
    solve = importlib.import_module("lap").lapjvr
    return lambda matrix: solve(matrix)[2]


def _laprust() -> Callable[[Any], Any]:
    solve = importlib.import_module("laprust").lapjv
    return lambda matrix: solve(matrix)[2]


def _pot() -> Callable[[Any], Any]:
    """POT's network simplex, which is faster than the others where the clouds are far apart."""
    solve = importlib.import_module("ot").emd
    return lambda matrix: solve([], [], matrix).argmax(1)


_NEAREST = {"pytorch3d": _pytorch3d, "kaolin": _kaolin, "ChamferDistancePytorch": _chamfer3d}
_ASSIGN = {"MSN emd": _msn_emd, "torch_linear_assignment": _linear_assignment}
_COSTS = {"scipy": _scipy, "lapx": _lapx, "laprust": _laprust, "POT": _pot}


def nearest_peers() -> dict[str, Callable[[Tensor, Tensor], Both]]:
    """The peers of nearest that can be imported here, by name."""
    return _importable(_NEAREST)


def assign_peers() -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """Likewise those of assign; they return the partners [B, N]."""
    on_matrix = {name: _on_clouds(solve) for name, solve in _importable(_COSTS).items()}
    del on_matrix["scipy"]  # test_scipy measures it, in turns
    return _importable(_ASSIGN) | on_matrix


def cost_peers() -> dict[str, Callable[[Tensor], Tensor]]:
    """Solvers of matrices of costs [B, N, M] on the CPU, likewise."""
    return {name: _on_costs(solve) for name, solve in _importable(_COSTS).items()}


def _importable(loaders: dict[str, Callable[[], Any]]) -> dict[str, Any]:
    found = {}
    for name, load in loaders.items():
        try:
            found[name] = load()
        except Exception as error:  # noqa: BLE001  (a peer that is broken here is not a peer)
            print(f"{name}: not measured ({type(error).__name__})")
    return found
