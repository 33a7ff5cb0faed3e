// SPDX-License-Identifier: MIT
// pointloss::assign on CUDA: check, allocate, enqueue the solver on the caller's stream.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <tuple>

#include "assign_kernel.cuh"
#include "launch.cuh"

namespace pointloss {
namespace {

using AssignTensors = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

template <class T>
AssignTensors assign_typed(const Tensor& x, const Tensor& y, const std::optional<Tensor>& x_lengths,
                           const std::optional<Tensor>& y_lengths, bool squared, double rtol,
                           const std::optional<Tensor>& price, int64_t max_rounds,
                           bool deterministic, Clouds size) {
  Tensor idx = torch::stable::new_empty(x, {size.B, size.N}, ScalarType::Long);
  Tensor cost = torch::stable::new_empty(x, {size.B}, ScalarType::Double);
  Tensor gap = torch::stable::new_empty(x, {size.B}, ScalarType::Double);
  Tensor new_price =
      torch::stable::new_empty(x, {size.B, std::max(size.N, size.M)}, ScalarType::Double);
  Tensor rounds = torch::stable::new_empty(x, {size.B}, ScalarType::Long);
  Tensor converged = torch::stable::new_empty(x, {size.B}, ScalarType::Bool);
  if (size.B == 0) return {idx, cost, gap, new_price, rounds, converged};
  const auto bytes = assign_workspace_bytes<T>(size.B, size.N, size.M, size.D);
  Tensor workspace = torch::stable::new_empty(x, {static_cast<int64_t>(bytes)}, ScalarType::Byte);
  const AssignBatch<T> batch{x.const_data_ptr<T>(),
                             y.const_data_ptr<T>(),
                             data_or_null<int64_t>(x_lengths),
                             data_or_null<int64_t>(y_lengths),
                             size.B,
                             size.N,
                             size.M,
                             size.D,
                             squared,
                             deterministic,
                             rtol,
                             max_rounds,
                             data_or_null<double>(price),
                             idx.mutable_data_ptr<int64_t>(),
                             new_price.mutable_data_ptr<double>(),
                             cost.mutable_data_ptr<double>(),
                             gap.mutable_data_ptr<double>(),
                             rounds.mutable_data_ptr<int64_t>(),
                             converged.mutable_data_ptr<bool>()};
  const cudaError_t error =
      launch_assign(batch, workspace.mutable_data_ptr(), current_stream(x.get_device_index()));
  STD_TORCH_CHECK(error == cudaSuccess, "pointloss: launching assign: ", cudaGetErrorString(error));
  return {idx, cost, gap, new_price, rounds, converged};
}

AssignTensors assign_cuda(Tensor x, Tensor y, std::optional<Tensor> x_lengths,
                          std::optional<Tensor> y_lengths, bool squared, double rtol,
                          std::optional<Tensor> price, int64_t max_rounds, bool deterministic) {
  const Clouds size = check_clouds(x, y);
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  const auto n = check_lengths(x_lengths, x), m = check_lengths(y_lengths, x);
  const auto start = check_price(price, x, size);
  const Tensor bidders = torch::stable::contiguous(x), objects = torch::stable::contiguous(y);
  auto* run = x.scalar_type() == ScalarType::Float ? &assign_typed<float> : &assign_typed<double>;
  return run(bidders, objects, n, m, squared, rtol, start, max_rounds, deterministic, size);
}

}  // namespace
}  // namespace pointloss

STABLE_TORCH_LIBRARY_IMPL(pointloss, CUDA, m) {
  m.impl("assign", TORCH_BOX(&pointloss::assign_cuda));
}
