// SPDX-License-Identifier: MIT
// The op schemas and the Python module pointloss._C. No bodies: each op registers its own
// implementation in csrc/cpu/<op>.cpp and csrc/cuda/<op>.cu.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/csrc/stable/library.h>

#include <map>
#include <string>

#define POINTLOSS_TEXT_(...) #__VA_ARGS__
#define POINTLOSS_TEXT(...) POINTLOSS_TEXT_(__VA_ARGS__)

// x [B, N, D], y [B, M, D], lengths int64 [B]. What each result means is told in the docstrings of
// pointloss/ops/; the schemas only fix the order.
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
      "Tensor idx_y, int norm, bool deterministic) -> (Tensor, Tensor)");
  m.def(
      "chamfer(Tensor x, Tensor y, Tensor? x_lengths, Tensor? y_lengths, int norm, bool squared, "
      "bool both, str point_reduction, str batch_reduction) -> (Tensor value, Tensor idx)");
  m.def(
      "chamfer_backward(Tensor grad, Tensor x, Tensor y, Tensor? x_lengths, Tensor? y_lengths, "
      "Tensor idx, int norm, bool squared, bool both, str point_reduction, str batch_reduction, "
      "bool deterministic) -> (Tensor, Tensor)");
  m.def(
      "assign(Tensor x, Tensor y, Tensor? x_lengths, Tensor? y_lengths, bool squared, float rtol, "
      "Tensor? price, Tensor? idx, int max_rounds, bool deterministic) -> (Tensor new_idx, "
      "Tensor cost, Tensor gap, Tensor new_price, Tensor rounds, Tensor converged)");
}

namespace {

std::map<std::string, std::string> build_info() {
  std::map<std::string, std::string> info;
  info["version"] = POINTLOSS_TEXT(POINTLOSS_VERSION);
  info["torch"] = POINTLOSS_TEXT(POINTLOSS_TORCH);
  info["compiler"] = __VERSION__;
#ifdef POINTLOSS_WITH_CUDA
  info["cuda"] = POINTLOSS_TEXT(POINTLOSS_CUDA_TOOLKIT);
  info["cuda_archs"] = POINTLOSS_TEXT(POINTLOSS_CUDA_ARCHS);
#else
  info["cuda"] = "";
  info["cuda_archs"] = "";
#endif
#if defined(__x86_64__)
  // The kernels carry an AVX2 variant and choose when they are called.
  info["cpu_variants"] = "baseline,avx2+fma";
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  info["cpu_in_use"] = avx2 ? "avx2+fma" : "baseline";
#else
  info["cpu_variants"] = "baseline";
  info["cpu_in_use"] = "baseline";
#endif
  return info;
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.doc() = "Compiled part of pointloss; the ops are registered as torch.ops.pointloss.*";
  m.def("build_info", &build_info);
}
