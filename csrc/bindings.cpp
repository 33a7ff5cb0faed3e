// SPDX-License-Identifier: MIT
// The schemas of the ops in the library pointloss/_ops.so. No bodies: an op is registered in
// csrc/cpu/<op>.cpp and csrc/cuda/<op>.cu. Where no file has its whole name (nearest_query,
// emd_backward, price_cache_read), it is in that of the longest beginning (nearest, emd,
// price_cache).
#include "build_info.h"

#include <torch/csrc/stable/library.h>

#include <string>

// x [B, N, D], y [B, M, D], lengths int64 [B]; of assign without y, x are costs [B, N, M]. What
// each result means is told in the docstrings of pointloss/ops/; the schemas only fix the order.
STABLE_TORCH_LIBRARY(pointloss, m) {
  m.def(
      "nearest(Tensor x, Tensor y, Tensor? x_lengths, Tensor? y_lengths, int norm, bool both, "
      "str method) -> (Tensor dist_x, Tensor idx_x, Tensor dist_y, Tensor idx_y)");
  m.def("nearest_index(Tensor y, Tensor? y_lengths) -> Tensor");
  m.def(
      "nearest_query(Tensor x, Tensor? x_lengths, Tensor y, Tensor? y_lengths, Tensor index, "
      "int norm) -> (Tensor dist, Tensor idx)");
  m.def(
      "k_nearest(Tensor x, Tensor y, Tensor? x_lengths, Tensor? y_lengths, Tensor? index, int "
      "norm, "
      "int k, str method) -> (Tensor dist, Tensor idx)");
  m.def(
      "nearest_backward(Tensor? grad_x, Tensor? grad_y, Tensor x, Tensor y, Tensor idx_x, "
      "Tensor idx_y, int norm, bool need_x, bool need_y, bool deterministic) "
      "-> (Tensor, Tensor)");
  m.def(
      "chamfer(Tensor x, Tensor y, Tensor? x_lengths, Tensor? y_lengths, int norm, bool squared, "
      "bool both, str point_reduction, str batch_reduction) -> (Tensor value, Tensor idx)");
  m.def(
      "chamfer_backward(Tensor grad, Tensor x, Tensor y, Tensor? x_lengths, Tensor? y_lengths, "
      "Tensor idx, int norm, bool squared, bool both, str point_reduction, str batch_reduction, "
      "bool need_x, bool need_y, bool deterministic) -> (Tensor, Tensor)");
  m.def(
      "assign(Tensor x, Tensor? y, Tensor? x_lengths, Tensor? y_lengths, bool squared, float rtol, "
      "float atol, Tensor? price, Tensor? idx, int max_rounds, bool deterministic) -> (Tensor "
      "new_idx, "
      "Tensor cost, Tensor gap, Tensor new_price, Tensor rounds, Tensor converged)");
  m.def(
      "emd(Tensor x, Tensor y, Tensor? x_lengths, Tensor? y_lengths, Tensor idx, Tensor cost, "
      "Tensor converged, bool squared, str point_reduction, str batch_reduction) -> Tensor");
  // Not an optional argument of emd: Inductor does not take one that an op writes to.
  m.def(
      "emd.watched(Tensor x, Tensor y, Tensor? x_lengths, Tensor? y_lengths, Tensor idx, "
      "Tensor cost, Tensor converged, bool squared, str point_reduction, str batch_reduction, "
      "Tensor(a!) missed) -> Tensor");
  m.def(
      "emd_backward(Tensor grad, Tensor x, Tensor y, Tensor? x_lengths, Tensor? y_lengths, "
      "Tensor idx, Tensor cost, bool squared, str point_reduction, str batch_reduction, "
      "bool need_x, bool need_y) -> (Tensor, Tensor)");
  m.def(
      "price_cache_read(Tensor kept_price, Tensor kept_idx, Tensor ids, int n, int points) "
      "-> (Tensor price, Tensor idx)");
  m.def(
      "price_cache_write(Tensor(a!) kept_price, Tensor(b!) kept_idx, Tensor(c!) age, Tensor ids, "
      "Tensor price, Tensor idx, Tensor cost) -> Tensor");
  m.def("build_info() -> str");
}

namespace {

// A line "name=value" per fact.
std::string build_info() {
  std::string lines;
  for (const auto& [name, value] : pointloss::build_info()) lines += name + "=" + value + "\n";
  return lines;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(pointloss, CompositeExplicitAutograd, m) {
  m.impl("build_info", TORCH_BOX(&build_info));
}
