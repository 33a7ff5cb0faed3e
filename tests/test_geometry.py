# SPDX-License-Identifier: MIT
"""What the operators on geometry have in common: nothing waits for the GPU."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import pointloss

K = torch.tensor([[8.0, 0, 4], [0, 8, 4], [0, 0, 1]])
POSE = torch.eye(4)[:3]


def points(*shape):
    return torch.rand(*shape, 3)


# Floating point arguments of each op; those that are not differentiated come with their keyword.
CALLS = {
    "procrustes": lambda: ((points(2, 9), points(2, 9)), {"mask": torch.rand(2, 9) > 0.2}),
    "icp": lambda: ((points(2, 9), points(2, 7)), {"max_rounds": 2}),
    "mutual_nearest": lambda: ((points(2, 9), points(2, 7)), {}),
    "depth_to_points": lambda: ((1 + torch.rand(2, 8, 8), K), {}),
    "depth_to_normals": lambda: ((1 + torch.rand(2, 8, 8), K), {"mask": torch.rand(2, 8, 8) > 0.2}),
    "transform_points": lambda: ((points(2, 9), POSE), {}),
    "lambert_shading": lambda: ((points(2, 9), points(2)), {"ambient": 0.2}),
    "rerender": lambda: ((1 + torch.rand(2, 8, 8), torch.rand(2, 3, 8, 8), K, POSE), {}),
    "voxelize": lambda: ((points(2, 9), 4), {}),
    "pointmap_loss": lambda: (
        (points(2, 2, 4, 4), points(2, 2, 4, 4)),
        {"mask": torch.rand(2, 2, 4, 4) > 0.2, "confidence": torch.rand(2, 2, 4, 4)},
    ),
    "smoothness": lambda: ((torch.rand(2, 8, 8),), {}),
    "kl_standard_normal": lambda: ((torch.rand(2, 8), torch.rand(2, 8)), {}),
    "reparameterize": lambda: ((torch.rand(2, 8), torch.rand(2, 8)), {}),
    "mpjpe": lambda: ((points(2, 9), points(2, 9)), {"mask": torch.rand(2, 9) > 0.2}),
    "pa_mpjpe": lambda: ((points(2, 9), points(2, 9)), {"mask": torch.rand(2, 9) > 0.2}),
    "voxel_iou": lambda: ((torch.rand(2, 4, 4, 4), torch.rand(2, 4, 4, 4) > 0.5), {}),
    "scale_invariant_depth_error": lambda: (
        (1 + torch.rand(2, 8, 8), 1 + torch.rand(2, 8, 8)),
        {"erode": 1},
    ),
    "mean_angle_deviation": lambda: ((points(2, 8, 8), points(2, 8, 8)), {"erode": 1}),
    "optimal_scale": lambda: ((points(2, 9), points(2, 9)), {"method": "weiszfeld"}),
    "pointmap_error": lambda: ((points(2, 2, 4, 4), points(2, 2, 4, 4)), {}),
}


class NoLook(TorchDispatchMode):
    """Raises where a value of a tensor is looked at, or the size of a result depends on one."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "nonzero", "masked_select", "unique"), name
        assert "linalg_svd" not in name, "waits for the GPU"
        assert "linalg_eigh" not in name, "waits for the GPU"
        return func(*args, **(kwargs or {}))


def arguments(name, device):
    def place(value):
        return value.to(device, copy=True) if isinstance(value, torch.Tensor) else value

    args, options = CALLS[name]()
    return [place(v) for v in args], {key: place(v) for key, v in options.items()}


def tensors_of(value):
    if isinstance(value, torch.Tensor):
        return [value]
    return [t for part in value for t in tensors_of(part)]


@pytest.mark.parametrize("name", CALLS)
def test_no_synchronisation(name, device):
    args, options = arguments(name, device)
    leaves = [
        v.requires_grad_() for v in args if isinstance(v, torch.Tensor) and v.is_floating_point()
    ]

    def step():
        out = tensors_of(getattr(pointloss, name)(*args, **options))
        out = [t for t in out if t.requires_grad]
        if out:
            ones = [torch.ones_like(t) for t in out]
            torch.autograd.grad(out, leaves, ones, allow_unused=True)

    step()  # what is set up once may wait
    if device.type == "cpu":
        with NoLook():
            step()
        return
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", CALLS)
def test_halves_are_computed_in_float32(name, device):
    args, options = arguments(name, device)
    half = [v.half() if torch.is_tensor(v) and v.is_floating_point() else v for v in args]
    out = tensors_of(getattr(pointloss, name)(*half, **options))
    assert all(t.dtype == torch.float32 for t in out if t.is_floating_point())
    assert all(t.isfinite().all() or name == "mutual_nearest" for t in out)


@pytest.mark.parametrize("name", CALLS)
def test_an_empty_batch_gives_an_empty_result(name, device):
    args, options = arguments(name, device)
    batched = [torch.is_tensor(v) and v.shape[0] == 2 for v in args]
    args = [v[:0] if batch else v for v, batch in zip(args, batched, strict=True)]
    options = {key: v[:0] if torch.is_tensor(v) else v for key, v in options.items()}
    for out in tensors_of(getattr(pointloss, name)(*args, **options)):
        assert out.numel() == 0 or out == 0  # losses are means over the batch: 0, not NaN


@pytest.mark.parametrize("name", CALLS)
def test_autocast_does_not_take_digits(name, device):
    args, options = arguments(name, device)
    torch.manual_seed(1)
    expected = tensors_of(getattr(pointloss, name)(*args, **options))
    torch.manual_seed(1)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        found = tensors_of(getattr(pointloss, name)(*args, **options))
    torch.testing.assert_close(found, expected)
