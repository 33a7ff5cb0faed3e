# SPDX-License-Identifier: MIT
"""torch.export takes the ops with dynamic sizes; ONNX, which has no such operators, says no."""

import io

import pytest
import torch
from torch import nn

from pointloss import assign, chamfer, emd, nearest


class Wrapped(nn.Module):
    """A function as a module; a plain tuple, since torch.export saves no named ones."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x, y):
        found = self.function(x, y)
        return tuple(found) if isinstance(found, tuple) else found


@pytest.mark.parametrize("function", [nearest, chamfer, emd, assign])
def test_export_with_dynamic_sizes(function, device, deterministic):
    x, y = torch.rand(2, 20, 3, device=device), torch.rand(2, 30, 3, device=device)
    batch, points, others = (torch.export.Dim(name) for name in ("batch", "points", "others"))
    sizes = ({0: batch, 1: points}, {0: batch, 1: others})
    module = Wrapped(function)
    program = torch.export.export(module, (x, y), dynamic_shapes=sizes)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    x, y = torch.rand(3, 40, 3, device=device), torch.rand(3, 50, 3, device=device)
    torch.testing.assert_close(loaded(x, y), module(x, y))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_onnx_says_no():
    """With torch's own exporter: the other one needs a package that nothing else here needs."""
    clouds = torch.rand(1, 4, 3), torch.rand(1, 4, 3)
    with pytest.raises(RuntimeError, match="Couldn't export Python operator _Nearest"):
        torch.onnx.export(Wrapped(nearest), clouds, io.BytesIO(), dynamo=False)
