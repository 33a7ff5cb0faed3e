# SPDX-License-Identifier: MIT
"""The many-to-one matching of extensions that stop their auction early, to compare with."""

import torch
from torch import Tensor


@torch.no_grad()
def unfinished_auction(x: Tensor, y: Tensor, rounds: int = 50, eps: float = 0.005) -> Tensor:
    """Match x [B, N, 3] to y [B, M, 3], N <= M, by `rounds` of Bertsekas's auction (1988).

    Costs are squared distances; `rounds` and `eps` are what completion networks train with. Points
    that have no partner when it stops take the one that is cheapest at the final prices, although
    another point has it: so several points of x share a partner, other points of y have none, and
    the mean distance falls below the earth mover's distance.

    Returns:
        int64 [B, N], partners in y.
    """
    batch, points, objects = len(x), x.shape[1], y.shape[1]
    cost = torch.cdist(x.float(), y.float()).square()
    price = cost.new_zeros(batch, objects)
    partner = torch.full((batch, points), -1, dtype=torch.int64, device=x.device)
    owner = torch.full((batch, objects), -1, dtype=torch.int64, device=x.device)
    bidder = torch.arange(points, device=x.device).expand(batch, -1)
    for _ in range(rounds):
        value = cost + price[:, None]
        best, chosen = value.min(2)
        second = value.scatter_(2, chosen[:, :, None], torch.inf).amin(2)
        bid = torch.where(partner < 0, second - best + eps, -torch.inf)
        highest = torch.full_like(price, -torch.inf).scatter_reduce(1, chosen, bid, "amax")
        wins = (partner < 0) & (bid == highest.gather(1, chosen))
        # Of equal bids the lowest number wins.
        first = torch.full_like(owner, points).scatter_reduce(
            1, chosen, torch.where(wins, bidder, points), "amin"
        )
        sold = first < points
        # One place more takes what is not written: the owners that no object has.
        outbid = torch.where(sold & (owner >= 0), owner, points)
        partner = _with(partner, outbid, torch.full_like(owner, -1))
        owner = torch.where(sold, first, owner)
        price = torch.where(sold, price + highest.clamp(min=0), price)
        partner = _with(
            partner,
            torch.where(sold, first, points),
            torch.arange(objects, device=x.device).expand(batch, -1),
        )
    cheapest = (cost + price[:, None]).argmin(2)
    return torch.where(partner < 0, cheapest, partner)


def _with(row: Tensor, place: Tensor, value: Tensor) -> Tensor:
    """`row` [B, N] with `value` [B, M] at `place` [B, M]; place N is nowhere."""
    longer = torch.cat([row, row[:, :1]], 1)
    return longer.scatter(1, place, value)[:, :-1]
