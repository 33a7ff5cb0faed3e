# SPDX-License-Identifier: MIT
"""What a network costs at its real input: parameters, operations, time, memory."""

import statistics
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import pointloss
from models.config import Config
from models.networks.base import Network


def describe_machine(device: str, commit: str | None = None) -> str:
    """A sentence for a table's head: where its numbers, the milliseconds above all, come from."""
    where = (
        torch.cuda.get_device_name(device)
        if device.startswith("cuda")
        else f"a CPU (threads: {torch.get_num_threads()})"
    )
    versions = f"torch {torch.__version__}, pointloss {pointloss.__version__}"
    return f"Computed on {where}, {versions}{f', commit {commit}' if commit else ''}."


def example(network: Network, config: Config, batch: int) -> tuple[Tensor, Tensor | None]:
    """Arguments of a forward pass as in evaluation."""
    device, size = next(network.parameters()).device, config.data.image_size
    image = torch.full((batch, 3, size, size), 0.5, device=device)
    if not network.reads_points:
        return image, None
    return image, torch.zeros(batch, config.network.points, 3, device=device)


def count_macs(network: Network, config: Config) -> int:
    """Multiply-accumulates of one forward pass, convolutions and linear layers only."""
    return macs_of(network, *example(network, config, 1))


def macs_of(network: nn.Module, *arguments: Tensor | None) -> int:
    """Multiply-accumulates of the products in `network(*arguments)`, in evaluation mode."""
    training = network.training
    network.eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(*arguments)
    network.train(training)
    return int(counter.get_total_flops()) // 2


def count_parameters(network: Network, config: Config) -> int:
    """Parameters of the layers that a forward pass in evaluation runs through."""
    used: dict[int, int] = {}

    def note(module: nn.Module, _: Any) -> None:
        used.update({id(p): p.numel() for p in module.parameters(recurse=False)})

    hooks = [module.register_forward_pre_hook(note) for module in network.modules()]
    count_macs(network, config)
    for hook in hooks:
        hook.remove()
    return sum(used.values())


def weights(network: nn.Module) -> int:
    """Bytes of parameters and buffers."""
    return sum(t.nbytes for t in (*network.parameters(), *network.buffers()))


@torch.no_grad()
def measure(network: Network, config: Config, repeats: int = 20) -> dict[str, float | int | None]:
    """The cost of a reconstruction in float32, in evaluation mode.

    milliseconds: median over `repeats` passes of evaluate.batch_size images, per image.
    peak_mib: weights and what such a pass needs of the GPU's memory; None on the CPU.
    """
    network.eval()
    batch = config.evaluate.batch_size
    arguments = example(network, config, batch)
    cuda = arguments[0].is_cuda

    def run() -> float:
        began = time.perf_counter()
        network(*arguments)
        if cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - began

    run()  # warm up
    if cuda:
        torch.cuda.reset_peak_memory_stats()
        others = torch.cuda.memory_allocated() - weights(network)  # an optimiser's state, say
    seconds = statistics.median(run() for _ in range(repeats if cuda else 3))
    macs = count_macs(network, config)
    return {
        "parameters": count_parameters(network, config),
        "macs": macs,
        "flops": 2 * macs,
        "image_size": config.data.image_size,
        "batch_size": batch,
        "milliseconds": 1000 * seconds / batch,
        "peak_mib": (torch.cuda.max_memory_allocated() - others) / 2**20 if cuda else None,
    }
