# SPDX-License-Identifier: MIT
"""GAN2Shape: what a GAN of images knows of shape, in three steps that are repeated."""
