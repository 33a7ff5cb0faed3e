// SPDX-License-Identifier: MIT
// pointloss::assign on the CPU: check, allocate, solve the clouds in parallel.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <tuple>

#include "../common/checks.h"
#include "assign_kernel.h"

namespace pointloss {
namespace {

using AssignTensors = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

template <class T>
AssignTensors assign_typed(const Tensor& x, const Tensor& y, const std::optional<Tensor>& x_lengths,
                           const std::optional<Tensor>& y_lengths, bool squared, double rtol,
                           const std::optional<Tensor>& price, int64_t max_rounds, Clouds size) {
  const int64_t objects = std::max(size.N, size.M);
  Tensor idx = torch::stable::new_empty(x, {size.B, size.N}, ScalarType::Long);
  Tensor cost = torch::stable::new_empty(x, {size.B}, ScalarType::Double);
  Tensor gap = torch::stable::new_empty(x, {size.B}, ScalarType::Double);
  Tensor new_price = torch::stable::new_empty(x, {size.B, objects}, ScalarType::Double);
  Tensor rounds = torch::stable::new_empty(x, {size.B}, ScalarType::Long);
  Tensor converged = torch::stable::new_empty(x, {size.B}, ScalarType::Bool);
  const T* x_data = x.const_data_ptr<T>();
  const T* y_data = y.const_data_ptr<T>();
  const int64_t* n = data_or_null<int64_t>(x_lengths);
  const int64_t* m = data_or_null<int64_t>(y_lengths);
  const double* price_data = data_or_null<double>(price);
  auto* idx_data = idx.mutable_data_ptr<int64_t>();
  auto* new_price_data = new_price.mutable_data_ptr<double>();
  auto* cost_data = cost.mutable_data_ptr<double>();
  auto* gap_data = gap.mutable_data_ptr<double>();
  auto* rounds_data = rounds.mutable_data_ptr<int64_t>();
  auto* converged_data = converged.mutable_data_ptr<bool>();
  torch::stable::parallel_for(0, size.B, 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const AssignProblem<T> problem{x_data + b * size.N * size.D,
                                     y_data + b * size.M * size.D,
                                     size.N,
                                     size.M,
                                     size.D,
                                     n == nullptr ? size.N : n[b],
                                     m == nullptr ? size.M : m[b],
                                     squared,
                                     rtol,
                                     max_rounds,
                                     price_data == nullptr ? nullptr : price_data + b * objects};
      AssignResult result{};
      result.idx = idx_data + b * size.N;
      result.price = new_price_data + b * objects;
      solve_assignment(problem, result);
      cost_data[b] = result.cost;
      gap_data[b] = result.gap;
      rounds_data[b] = result.rounds;
      converged_data[b] = result.converged;
    }
  });
  return {idx, cost, gap, new_price, rounds, converged};
}

AssignTensors assign_cpu(Tensor x, Tensor y, std::optional<Tensor> x_lengths,
                         std::optional<Tensor> y_lengths, bool squared, double rtol,
                         std::optional<Tensor> price, int64_t max_rounds,
                         bool /*deterministic: always is*/) {
  const Clouds size = check_clouds(x, y);
  const auto n = check_lengths(x_lengths, x), m = check_lengths(y_lengths, x);
  const auto start = check_price(price, x, size);
  const Tensor bidders = torch::stable::contiguous(x), objects = torch::stable::contiguous(y);
  auto* run = x.scalar_type() == ScalarType::Float ? &assign_typed<float> : &assign_typed<double>;
  return run(bidders, objects, n, m, squared, rtol, start, max_rounds, size);
}

}  // namespace
}  // namespace pointloss

STABLE_TORCH_LIBRARY_IMPL(pointloss, CPU, m) {
  m.impl("assign", TORCH_BOX(&pointloss::assign_cpu));
}
