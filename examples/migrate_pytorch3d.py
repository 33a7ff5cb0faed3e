# SPDX-License-Identifier: MIT
"""A training script written for PyTorch3D: only the import of its losses is another.

    python examples/migrate_pytorch3d.py

A network moves the points of a sphere onto a bumpy one, by the Chamfer distance, the normals at the
nearest points, and an even spacing.
"""

import torch

# Before:
#   from pytorch3d.loss import chamfer_distance
#   from pytorch3d.ops import knn_points
from pointloss.compat.pytorch3d import chamfer_distance, knn_points


def sphere(points: int) -> torch.Tensor:
    """Random points of the unit sphere, which are their own normals."""
    return torch.nn.functional.normalize(torch.randn(1, points, 3), dim=-1)


def main() -> None:
    """Train for some seconds and print the losses."""
    torch.manual_seed(0)
    start, normals = sphere(256), sphere(400)
    target = normals * (1 + 0.2 * (4 * normals[..., :1]).sin())
    network = torch.nn.Sequential(
        torch.nn.Linear(3, 64), torch.nn.Softplus(), torch.nn.Linear(64, 3)
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for step in range(61):
        points = start + network(start)
        loss, loss_normals = chamfer_distance(
            points,
            target,
            x_normals=torch.nn.functional.normalize(points - points.mean(1, keepdim=True), dim=-1),
            y_normals=normals,
        )
        spacing = knn_points(points, points, K=2).dists[..., 1].std()
        total = loss + 0.01 * loss_normals + 0.01 * spacing
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        if step % 20 == 0:
            print(f"step {step:3d}  loss {loss.item():.4f}  normals {loss_normals.item():.4f}")


if __name__ == "__main__":
    main()
