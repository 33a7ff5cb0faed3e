# SPDX-License-Identifier: MIT
"""A running average of a network's weights: what is validated, scored and shipped."""

from copy import deepcopy

import torch
from torch import Tensor, nn


class Average(nn.Module):
    """The exponential average of a network's parameters and buffers over the training steps.

    In step t (from 0) it moves towards the network by 1 - min((1 + t) / (10 + t), decay): the first
    steps, whose weights are far off, are soon forgotten. Running means and variances of batch norms
    are averaged too; counters are copied. decay 0: the network's own weights.
    """

    network: nn.Module
    steps: Tensor

    def __init__(self, network: nn.Module, decay: float):
        super().__init__()
        self.network = deepcopy(network).requires_grad_(False).eval()
        self.decay = decay
        # Of float32, and on the device, so that a CUDA graph can count in it.
        self.register_buffer("steps", torch.zeros(()), persistent=False)

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take in the weights after a step. It waits for nothing, so a CUDA graph can hold it."""
        means, values = [], []
        for mean, value in zip(tensors(self.network), tensors(network), strict=True):
            if mean.is_floating_point():
                means.append(mean)
                values.append(value)
            else:
                mean.copy_(value)
        part = 1 - ((1 + self.steps) / (10 + self.steps)).clamp(max=self.decay)
        change = torch._foreach_sub(values, means)
        torch._foreach_mul_(change, part)
        torch._foreach_add_(means, change)
        self.steps.add_(1)


def tensors(module: nn.Module) -> list[Tensor]:
    """Parameters and buffers, in the order of their names."""
    return [*module.parameters(), *module.buffers()]
