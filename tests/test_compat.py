# SPDX-License-Identifier: MIT
"""What all modules of pointloss.compat share."""

import importlib
import inspect
import pkgutil

import pytest

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
