# SPDX-License-Identifier: MIT
"""The names and conventions of other packages over this one's ops, one module for each.

To migrate, change the import and nothing else:

    from pytorch3d.loss import chamfer_distance
    from pointloss.compat.pytorch3d import chamfer_distance

    pytorch3d     pytorch3d.loss and .ops: chamfer_distance, knn_points, knn_gather
    kaolin        kaolin.metrics.pointcloud: sided_distance, chamfer_distance, f_score
    chamfer3d     ChamferDistancePytorch: chamfer_3DDist, fscore
    pointr        PoinTr's extensions.chamfer_dist: ChamferDistanceL1, ChamferDistanceL2, ...
    msn_emd       MSN's emd_module: emdModule
    pytorch_emd   PyTorchEMD: earth_mover_distance
    dcd           Density-aware Chamfer distance: calc_cd, calc_dcd, calc_emd
    pointflow     PointFlow's evaluation_metrics: compute_all_metrics, EMD_CD, ...

Argument order, shapes, dtypes and reductions are the package's. All run on the CPU, too, and where
`nearest` and `assign` run; their shapes are checked. Where a package's number is not what its
documentation says, here it is, and the docstring tells the difference. An empty target is at
distance inf, not 0, except in knn_points, where 0 is the documented padding; NaN points give NaN;
gradients reach both clouds, and are 0, not NaN, where a root is taken of the distance 0.
Determinism is that of the op behind each.
"""
