# SPDX-License-Identifier: MIT
"""The networks by name. One paper, one file; models.networks.base.Network says what one owes."""

from models.networks.base import Network
from models.networks.efficient import EfficientPointNet
from models.networks.lmnet import LMNet, PointAutoencoder
from models.networks.psgn import PSGN
from models.networks.reconstnet import ReconstNet

NETWORKS: dict[str, type[Network]] = {
    "efficient": EfficientPointNet,
    "psgn": PSGN,
    "lmnet-autoencoder": PointAutoencoder,
    "lmnet": LMNet,
    "reconstnet": ReconstNet,
}
