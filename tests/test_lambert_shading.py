# SPDX-License-Identifier: MIT
import numpy as np
import pytest
import torch

from pointloss import lambert_shading


def test_agrees_with_numpy(dtype, device):
    normals = torch.nn.functional.normalize(torch.randn(2, 3, 4, 3, dtype=torch.float64), dim=-1)
    light = torch.randn(2, 3, dtype=torch.float64)
    ambient, diffuse = torch.rand(2), torch.rand(2)
    found = lambert_shading(normals.to(device, dtype), light.to(device, dtype),
                            ambient=ambient.to(device), diffuse=diffuse.to(device))  # fmt: skip
    n, direction = normals.numpy(), light.numpy() / np.linalg.norm(light, axis=1, keepdims=True)
    cosine = np.maximum(np.einsum("bhwk,bk->bhw", n, direction), 0)
    truth = ambient.numpy()[:, None, None] + diffuse.numpy()[:, None, None] * cosine
    torch.testing.assert_close(found.double().cpu(), torch.from_numpy(truth), rtol=1e-5, atol=1e-5)
    one = lambert_shading(normals[1].to(found), light[1].to(found), ambient=ambient[1].item(),
                          diffuse=diffuse[1].item())  # fmt: skip
    torch.testing.assert_close(one, found[1])


def test_by_hand(device):
    normals = torch.tensor([[0.0, 0, -1], [0, 0, 1], [0, 0, 0], [0.6, 0, -0.8]], device=device)
    light = torch.tensor([0.0, 0, -5], device=device)
    found = lambert_shading(normals, light, ambient=0.25, diffuse=0.5)
    torch.testing.assert_close(found.tolist(), [0.75, 0.25, 0.25, 0.65])


def test_gradients_and_compile(device, gradcheck):
    inputs = [torch.randn(*s, dtype=torch.float64, device=device).requires_grad_()
              for s in ((2, 3, 3), (2, 3), (2,), (2,))]  # fmt: skip

    def shade(n, light, a, d):
        return lambert_shading(n, light, ambient=a, diffuse=d)

    gradcheck(shade, inputs)
    compiled = torch.compile(shade, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(*inputs), shade(*inputs))


def test_no_light_has_no_gradient(device):
    light = torch.zeros(3, device=device, requires_grad=True)
    lambert_shading(torch.ones(2, 3, device=device), light).sum().backward()
    assert light.grad.eq(0).all()


def test_errors():
    normals = torch.zeros(2, 4, 4, 3)
    with pytest.raises(ValueError, match=r"light must have shape \[3\] or \[2, 3\], got \[3, 3\]"):
        lambert_shading(normals, torch.zeros(3, 3))
    with pytest.raises(ValueError, match=r"ambient must be a number or \[2\], got \[4\]"):
        lambert_shading(normals, torch.zeros(3), ambient=torch.zeros(4))
