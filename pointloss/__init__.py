# SPDX-License-Identifier: MIT
"""Exact Chamfer distance and certified earth mover's distance for 3-D point clouds.

Every number here says whether it is squared, a mean or a sum, and of one direction or both.
"""

from pointloss._extension import __version__, build_info
from pointloss._reduce import PointDistances
from pointloss.geometry.depth_to_normals import depth_to_normals
from pointloss.geometry.depth_to_points import depth_to_points
from pointloss.geometry.icp import Registration, icp
from pointloss.geometry.lambert_shading import lambert_shading
from pointloss.geometry.mutual_nearest import mutual_nearest
from pointloss.geometry.procrustes import Similarity, procrustes
from pointloss.geometry.rendering import Rendering, rerender
from pointloss.geometry.transform_points import transform_points
from pointloss.geometry.voxelize import voxelize
from pointloss.losses.emd_loss import EMDLoss
from pointloss.losses.kl_standard_normal import kl_standard_normal, reparameterize
from pointloss.losses.normal_loss import normal_loss
from pointloss.losses.pointmap_loss import pointmap_loss
from pointloss.losses.smoothness import smoothness
from pointloss.losses.transport import Transport, transport
from pointloss.metrics.density_aware_chamfer import density_aware_chamfer
from pointloss.metrics.f_score import FScore, f_score
from pointloss.metrics.generation import (
    GenerationMetrics,
    GenerationScores,
    generation_metrics,
    pairwise_chamfer,
    pairwise_emd,
)
from pointloss.metrics.hausdorff import hausdorff
from pointloss.metrics.mean_angle_deviation import mean_angle_deviation
from pointloss.metrics.mpjpe import mpjpe, pa_mpjpe
from pointloss.metrics.normal_consistency import normal_consistency
from pointloss.metrics.occupancy_jsd import occupancy_jsd
from pointloss.metrics.optimal_scale import optimal_scale
from pointloss.metrics.pointmap_error import pointmap_error
from pointloss.metrics.scale_invariant_depth_error import scale_invariant_depth_error
from pointloss.metrics.voxel_iou import voxel_iou
from pointloss.ops.assign import Assignment, assign
from pointloss.ops.chamfer import ChamferLoss, PointIndices, chamfer
from pointloss.ops.emd import emd
from pointloss.ops.nearest import Nearest, nearest, nearest_both
from pointloss.ops.nearest_index import NearestIndex
from pointloss.ops.pad import Padded, pad

__all__ = [
    "Assignment",
    "ChamferLoss",
    "EMDLoss",
    "FScore",
    "GenerationMetrics",
    "GenerationScores",
    "Nearest",
    "NearestIndex",
    "Padded",
    "PointDistances",
    "PointIndices",
    "Registration",
    "Rendering",
    "Similarity",
    "Transport",
    "__version__",
    "assign",
    "build_info",
    "chamfer",
    "density_aware_chamfer",
    "depth_to_normals",
    "depth_to_points",
    "emd",
    "f_score",
    "generation_metrics",
    "hausdorff",
    "icp",
    "kl_standard_normal",
    "lambert_shading",
    "mean_angle_deviation",
    "mpjpe",
    "mutual_nearest",
    "nearest",
    "nearest_both",
    "normal_consistency",
    "normal_loss",
    "occupancy_jsd",
    "optimal_scale",
    "pa_mpjpe",
    "pad",
    "pairwise_chamfer",
    "pairwise_emd",
    "pointmap_error",
    "pointmap_loss",
    "procrustes",
    "reparameterize",
    "rerender",
    "scale_invariant_depth_error",
    "smoothness",
    "transform_points",
    "transport",
    "voxel_iou",
    "voxelize",
]
