# SPDX-License-Identifier: MIT
"""What all modules of pointloss.compat share."""

import importlib
import inspect
import pkgutil

import pytest
import torch

from pointloss import compat

NAMES = [
    (module.name, name)
    for module in pkgutil.iter_modules(compat.__path__)
    if not module.name.startswith("_")
    for name, value in vars(importlib.import_module(f"pointloss.compat.{module.name}")).items()
    if getattr(value, "__module__", None) == f"pointloss.compat.{module.name}"
    and not name.startswith("_")
]


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_every_name_tells_its_arguments_and_its_peer(module, name):
    found = getattr(importlib.import_module(f"pointloss.compat.{module}"), name)
    assert module in compat.__doc__
    text = inspect.getdoc(found)
    if inspect.isfunction(found):
        assert all(f"{p}:" in text for p in inspect.signature(found).parameters)
        assert "Returns:" in text
    else:
        assert text


SIGNATURES = {
    "pytorch3d.chamfer_distance": "x y x_lengths y_lengths x_normals y_normals weights "
    "batch_reduction point_reduction norm single_directional abs_cosine",
    "pytorch3d.knn_points": "p1 p2 lengths1 lengths2 norm K version return_nn return_sorted",
    "pytorch3d.knn_gather": "x idx lengths",
    "kaolin.sided_distance": "p1 p2",
    "kaolin.chamfer_distance": "p1 p2 w1 w2 squared",
    "kaolin.f_score": "gt_points pred_points radius eps",
    "chamfer3d.fscore": "dist1 dist2 threshold",
    "pytorch_emd.earth_mover_distance": "xyz1 xyz2 transpose",
    "dcd.calc_cd": "output gt calc_f1 return_raw normalize separate",
    "dcd.calc_dcd": "x gt alpha n_lambda return_raw non_reg",
    "dcd.calc_emd": "output gt eps iterations",
    "pointflow.compute_all_metrics": "sample_pcs ref_pcs batch_size accelerated_cd",
    "pointflow.EMD_CD": "sample_pcs ref_pcs batch_size accelerated_cd reduced",
    "pointflow.jsd_between_point_cloud_sets": "sample_pcs ref_pcs resolution",
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_arguments_stand_in_the_peer_s_order(name):
    module, function = name.split(".")
    found = getattr(importlib.import_module(f"pointloss.compat.{module}"), function)
    parameters = inspect.signature(found).parameters.values()
    assert [p.name for p in parameters] == SIGNATURES[name].split()
    assert {p.kind for p in parameters} == {inspect.Parameter.POSITIONAL_OR_KEYWORD}


CALLS = {  # what is said of two clouds, and of which arguments
    "pytorch3d.chamfer_distance": ("chamfer_distance", "x", "y"),
    "pytorch3d.knn_points": ("knn_points", "p1", "p2"),
    "kaolin.sided_distance": ("sided_distance", "p1", "p2"),
    "kaolin.chamfer_distance": ("chamfer_distance", "p1", "p2"),
    "kaolin.f_score": ("f_score", "gt_points", "pred_points"),
    "chamfer3d.chamfer_3DDist": ("chamfer_3DDist", "input1", "input2"),
    "pointr.ChamferDistanceL1": ("ChamferDistanceL1", "xyz1", "xyz2"),
    "pointr.ChamferDistanceL2_split": ("ChamferDistanceL2_split", "xyz1", "xyz2"),
    "msn_emd.emdModule": ("emdModule", "input1", "input2"),
    "pytorch_emd.earth_mover_distance": ("earth_mover_distance", "xyz1", "xyz2"),
    "dcd.calc_cd": ("calc_cd", "output", "gt"),
    "dcd.calc_dcd": ("calc_dcd", "x", "gt"),
    "dcd.calc_emd": ("calc_emd", "output", "gt"),
}


@pytest.mark.parametrize("name", CALLS)
def test_errors_name_the_caller_s_function_and_arguments(name):
    module, function = name.split(".")
    found = getattr(importlib.import_module(f"pointloss.compat.{module}"), function)
    call = found() if inspect.isclass(found) else found
    more = {"msn_emd": (0.005, 50), "pytorch_emd": (False,)}.get(module, ())
    op, first, second = CALLS[name]
    clouds = torch.zeros(2, 5, 3), torch.zeros(3, 5, 3)
    with pytest.raises(
        ValueError, match=rf"^{op}: ({first}|{second}) must have shape \[\d, M, 3\]"
    ):
        call(*clouds, *more)
    with pytest.raises(TypeError, match=rf"^{op}: {second} must be a torch.Tensor, got list; did"):
        call(clouds[0], [[[0.0, 0.0, 0.0]]], *more)
    with pytest.raises(TypeError, match=rf"^{op}: {first} must be float16, .*, got int64"):
        call(clouds[0].long(), clouds[0], *more)
