# SPDX-License-Identifier: MIT
"""Several processes under torchrun, one a GPU (NCCL) or on the CPU (gloo); one without it.

W processes take the batches and the random numbers of one: process r has rows r, r + W, ... of
each global batch, batch norm sees the whole batch, gradients are averaged. So loss and gradient of
a step are those of one process up to rounding, if the weights before it are the same and so is the
EMD's matching (any within loss.emd_rtol is right). Whole runs part by more than rounding, from the
first step on: Adam divides a gradient by its own size, so a weight whose gradient is rounding alone
takes a step of full length in a direction of its own.
"""

import os
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel


def begin(device: str) -> str:
    """Join the other processes if torchrun started this one; the device of this process."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return device
    if device == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    return device


def end() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def own_rows(whole: Tensor) -> Tensor:
    """This process's rows of what was drawn for the global batch."""
    return whole[rank() :: world()]


def total(values: Tensor) -> Tensor:
    """Sum over the processes."""
    if world() > 1:
        dist.all_reduce(values)
    return values


class _GlobalBatchNorm(_BatchNorm):
    """Batch norm over the batches of all processes, on the CPU, where torch has none."""

    def _check_input_dim(self, x: Tensor) -> None:
        pass

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        over = [0, *range(2, x.dim())]
        shape = [1, -1] + [1] * (x.dim() - 2)
        mean = all_reduce(x.mean(over)) / world()
        centred = x - mean.view(shape)
        variance = all_reduce(centred.square().mean(over)) / world()
        with torch.no_grad():
            count = world() * x.numel() / x.shape[1]
            momentum = cast("float", self.momentum)
            cast("Tensor", self.running_mean).lerp_(mean, momentum)
            cast("Tensor", self.running_var).lerp_(variance * count / (count - 1), momentum)
            cast("Tensor", self.num_batches_tracked).add_(1)
        scale = self.weight * (variance + self.eps).rsqrt()
        normal: Tensor = centred * scale.view(shape) + self.bias.view(shape)
        return normal


def parallel(network: nn.Module, device: str) -> nn.Module:
    """`network` for training in this process; the same module where it is the only one."""
    if world() == 1:
        return network
    if device == "cpu":
        for module in network.modules():
            if isinstance(module, _BatchNorm):
                module.__class__ = _GlobalBatchNorm  # the same state, another forward
        return DistributedDataParallel(network, broadcast_buffers=False)
    nn.SyncBatchNorm.convert_sync_batchnorm(network)
    return DistributedDataParallel(network, device_ids=[device], broadcast_buffers=False)
