# SPDX-License-Identifier: MIT
"""The kinds of problems. The config's network.name decides which one a run is of."""

from models.config import Config, ConfigError
from models.networks import NETWORKS
from models.tasks.base import Task
from models.tasks.gan2shape import PhotoGeometricTask
from models.tasks.lifting import Lifting
from models.tasks.pointmaps import PointmapTask
from models.tasks.reconstruction import Reconstruction
from models.tasks.voxels import Voxels

TASKS: dict[str, type[Task]] = {
    **dict.fromkeys(NETWORKS, Reconstruction),
    "gan2shape": PhotoGeometricTask,
    "lifter": Lifting,
    "pointmap": PointmapTask,
    "voxel": Voxels,
}


def open_task(config: Config, device: str) -> Task:
    """The task of the network that the config names."""
    name = config.network.name
    if name not in TASKS:
        raise ConfigError(f"network.name: expected one of {', '.join(TASKS)}, got {name!r}")
    return TASKS[name](config, device)
