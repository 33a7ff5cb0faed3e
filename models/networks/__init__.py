# SPDX-License-Identifier: MIT
"""The networks by name. One paper, one file.

All are built with (preset, points, image_size, out_act) and called with (image, points, noise);
`latent` is the number of normal variables that `noise` has to have, 0 for none.
"""

from models.networks.efficient import EfficientPointNet
from models.networks.lmnet import LMNet, PointAutoencoder
from models.networks.psgn import PSGN
from models.networks.reconstnet import ReconstNet

NETWORKS = {
    "efficient": EfficientPointNet,
    "psgn": PSGN,
    "lmnet-autoencoder": PointAutoencoder,
    "lmnet": LMNet,
    "reconstnet": ReconstNet,
}
