# SPDX-License-Identifier: MIT
"""The networks by name. One paper, one file."""

from models.networks.efficient import EfficientPointNet

NETWORKS = {"efficient": EfficientPointNet}
