# SPDX-License-Identifier: MIT
import pytest
import torch

from pointloss import kl_standard_normal, reference, reparameterize


def test_agrees_with_reference(dtype, device):
    mu, logvar = torch.randn(2, 4, 6, dtype=dtype, device=device)
    expected = reference.kl_standard_normal(mu.cpu(), logvar.cpu())
    found = kl_standard_normal(mu, logvar, batch_reduction="none")
    torch.testing.assert_close(found.double().cpu(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(kl_standard_normal(mu, logvar), found.mean())
    torch.testing.assert_close(kl_standard_normal(mu, logvar, batch_reduction="sum"), found.sum())
    torch.testing.assert_close(kl_standard_normal(mu[0], logvar[0]), found[0])


def test_by_hand(device):
    mu = torch.tensor([1.0, 0.0], device=device)
    logvar = torch.tensor([0.0, 1.0], device=device)
    assert kl_standard_normal(mu, logvar).item() == pytest.approx(0.5 + (torch.e - 2) / 2)
    assert kl_standard_normal(0 * mu, 0 * logvar) == 0


def test_gradients_and_compile(device, gradcheck):
    inputs = [v.requires_grad_() for v in torch.randn(2, 2, 3, dtype=torch.float64, device=device)]
    gradcheck(kl_standard_normal, inputs)

    def sample(mu, logvar):
        generator = torch.Generator(device).manual_seed(3)
        return reparameterize(mu, logvar, generator=generator)

    gradcheck(sample, inputs)
    for op in (kl_standard_normal, reparameterize):
        torch.compile(op, fullgraph=True, backend="eager")(*inputs)


def test_samples_have_their_mean_and_variance(device):
    mu, logvar = torch.tensor([3.0, -1.0], device=device), torch.tensor([0.0, 2.0], device=device)
    draws = reparameterize(mu.expand(100_000, 2), logvar.expand(100_000, 2))
    torch.testing.assert_close(draws.mean(0), mu, rtol=0, atol=0.05)  # 5 standard errors
    torch.testing.assert_close(draws.var(0).log(), logvar, rtol=0, atol=0.05)
    assert reparameterize(mu.half(), logvar.half()).dtype == torch.float32


def test_errors():
    with pytest.raises(ValueError, match=r"logvar must have shape \[4, 2\], got \[4, 3\]"):
        kl_standard_normal(torch.zeros(4, 2), torch.zeros(4, 3))
    with pytest.raises(ValueError, match="batch_reduction must be one of 'mean', 'sum', 'none'"):
        kl_standard_normal(torch.zeros(2), torch.zeros(2), batch_reduction="max")
    with pytest.raises(
        ValueError, match=r"reparameterize: logvar must have shape \[2\], got \[3\]"
    ):
        reparameterize(torch.zeros(2), torch.zeros(3))
