# SPDX-License-Identifier: MIT
"""Latent codes as distributions: their divergence from the standard normal, and samples of them."""

from __future__ import annotations

import torch
from torch import Tensor

from pointloss import _checks, _reduce


def kl_standard_normal(mu: Tensor, logvar: Tensor, *, batch_reduction: str = "mean") -> Tensor:
    """KL(N(mu, sigma^2) || N(0, 1)) = 1/2 sum_j (mu_j^2 + sigma_j^2 - 1 - log sigma_j^2).

    Summed over the L numbers of a code (Kingma and Welling 2014, appendix B, with the sign of a
    loss), in nats.

    Args:
        mu: means [B, L] or [L], float; halves are computed in float32.
        logvar: log sigma^2, of mu's shape.
        batch_reduction: "mean", "sum" or "none" ([B]).

    Returns:
        A scalar, or [B]; not negative, and 0 only for mu = 0, logvar = 0. Differentiable.

    Raises:
        ValueError: shapes, devices or options do not fit.
        TypeError: dtypes do not fit.

    Determinism: deterministic, values and gradients.

    Example:
        >>> kl_standard_normal(torch.tensor([1.0, 2.0]), torch.zeros(2)).item()
        2.5
    """
    op = "kl_standard_normal"
    _checks.choice(op, "batch_reduction", batch_reduction, ("mean", "sum", "none"))
    arrays = _checks.Arrays(op, mu=mu, logvar=logvar)
    mu, logvar = arrays.take("mu", mu, "B L"), arrays.take("logvar", logvar, "B L")
    # expm1 keeps the digits of sigma^2 - 1 near sigma = 1.
    total = 0.5 * (mu.square() + (torch.expm1(logvar) - logvar)).sum(1)
    return total[0] if arrays.single else _reduce.over_batch(total, batch_reduction)


def reparameterize(
    mu: Tensor, logvar: Tensor, *, generator: torch.Generator | None = None
) -> Tensor:
    """A sample mu + sigma * eps of N(mu, sigma^2), eps ~ N(0, 1), with a gradient to mu and logvar.

    The reparameterisation of Kingma and Welling 2014, section 2.4.

    Args:
        mu: means, of any shape, float.
        logvar: log sigma^2, of mu's shape.
        generator: draws eps; it lives on mu's device. None: torch's own.

    Returns:
        Of mu's shape, float32 for halves; d/d mu = 1, d/d logvar = sigma * eps / 2.

    Raises:
        ValueError: shapes or devices do not fit.
        TypeError: dtypes do not fit.

    Determinism: the same state of the generator gives the same sample on one device; CPU and CUDA
    draw different numbers.

    Example:
        >>> reparameterize(torch.ones(2, 3), torch.full((2, 3), -torch.inf)).tolist()
        [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    """
    dtype = _checks.Arrays("reparameterize", mu=mu, logvar=logvar).dtype
    if mu.shape != logvar.shape:
        raise ValueError(
            f"reparameterize: logvar must have shape {list(mu.shape)}, got {list(logvar.shape)}"
        )
    eps = torch.randn(mu.shape, generator=generator, dtype=dtype, device=mu.device)
    return mu.to(dtype) + torch.exp(0.5 * logvar.to(dtype)) * eps
