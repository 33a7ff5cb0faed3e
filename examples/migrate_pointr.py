# SPDX-License-Identifier: MIT
"""A completion script written for PoinTr's extensions: only the imports of its losses are others.

    python examples/migrate_pointr.py

A small encoder and decoder complete ellipsoids of which one half is seen, by CD-L1 of a coarse and
a fine cloud. Of new ones it tells what such repositories print: CD-L1, CD-L2, F-score and EMD.
"""

import torch

# Before:
#   from extensions.chamfer_dist import ChamferDistanceL1, ChamferDistanceL2
#   from ChamferDistancePytorch.chamfer3D.dist_chamfer_3D import chamfer_3DDist
#   from ChamferDistancePytorch.fscore import fscore
#   from emd.emd_module import emdModule
from pointloss.compat.chamfer3d import chamfer_3DDist, fscore
from pointloss.compat.msn_emd import emdModule
from pointloss.compat.pointr import ChamferDistanceL1, ChamferDistanceL2


def batch(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ellipsoids: the points with positive z, padded with zeros, and all of them."""
    whole = torch.nn.functional.normalize(torch.randn(size, 256, 3), dim=-1)
    whole = whole * (0.3 + 0.2 * torch.rand(size, 1, 3))
    return torch.where(whole[..., 2:] > 0, whole, 0), whole


class Completion(torch.nn.Module):
    """The largest feature of all seen points, and two clouds made of it."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = torch.nn.Sequential(
            torch.nn.Linear(3, 64), torch.nn.ReLU(), torch.nn.Linear(64, 128)
        )
        self.coarse, self.fine = torch.nn.Linear(128, 64 * 3), torch.nn.Linear(128, 256 * 3)

    def forward(self, seen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Clouds of 64 and of 256 points."""
        feature = self.encode(seen).amax(1)
        return self.coarse(feature).view(-1, 64, 3), self.fine(feature).view(-1, 256, 3)


def main() -> None:
    """Train for some seconds and print the losses and scores."""
    torch.manual_seed(0)
    network, loss_l1, loss_l2 = Completion(), ChamferDistanceL1(), ChamferDistanceL2()
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for step in range(41):
        seen, truth = batch(4)
        coarse, fine = network(seen)
        loss = loss_l1(coarse, truth) + loss_l1(fine, truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 20 == 0:
            print(f"step {step:3d}  loss {loss.item():.4f}")
    with torch.no_grad():
        seen, truth = batch(16)
        _, fine = network(seen)
        dist1, dist2, _, _ = chamfer_3DDist()(fine, truth)
        matched, _ = emdModule()(fine, truth, 0.005, 50)
        score = fscore(dist1, dist2, threshold=0.05**2)[0].mean()
        print(
            f"CD-L1 {1000 * loss_l1(fine, truth):.2f}  CD-L2 {1000 * loss_l2(fine, truth):.2f}  "
            f"F-score {score:.3f}  EMD {matched.sqrt().mean():.4f}"
        )


if __name__ == "__main__":
    main()
