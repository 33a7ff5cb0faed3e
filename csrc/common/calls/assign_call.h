// SPDX-License-Identifier: MIT
// A call of pointloss::assign as both devices check and allocate it; the solvers know no torch.
#pragma once

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <tuple>

#include "../assign.h"
#include "../checks.h"

namespace pointloss {

using AssignTensors = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

struct AssignCall {
  Clouds size;
  Tensor x;                 // contiguous
  std::optional<Tensor> y;  // likewise; without it x are costs [B, N, M]
  std::optional<Tensor> x_lengths, y_lengths;
  std::optional<Tensor> start_price, start_idx;  // of a warm start, or nullopt
  bool squared, deterministic;
  AssignTolerance tolerance;
  int64_t max_rounds;
  Tensor idx, cost, gap, price, rounds, converged;  // results

  template <class T>
  AssignBatch<T> batch() {
    const AssignSettings settings{data_or_null<int64_t>(x_lengths),
                                  data_or_null<int64_t>(y_lengths),
                                  size.B,
                                  size.N,
                                  size.M,
                                  size.D,
                                  squared,
                                  deterministic,
                                  tolerance,
                                  max_rounds,
                                  data_or_null<double>(start_price),
                                  data_or_null<int64_t>(start_idx)};
    const AssignResults results{
        idx.mutable_data_ptr<int64_t>(),    price.mutable_data_ptr<double>(),
        cost.mutable_data_ptr<double>(),    gap.mutable_data_ptr<double>(),
        rounds.mutable_data_ptr<int64_t>(), converged.mutable_data_ptr<bool>()};
    return {settings, results, x.const_data_ptr<T>(), data_or_null<T>(y)};
  }
  AssignTensors results() const { return {idx, cost, gap, price, rounds, converged}; }
};

// D = 0: of a matrix of costs.
inline Clouds check_costs(const Tensor& costs) {
  STD_TORCH_CHECK(costs.dim() == 3, "costs must be [B, N, M]");
  check_float(costs);
  return {costs.size(0), costs.size(1), costs.size(2), 0};
}

inline AssignCall check_assign(const Tensor& x, const std::optional<Tensor>& y,
                               const std::optional<Tensor>& x_lengths,
                               const std::optional<Tensor>& y_lengths, bool squared, double rtol,
                               double atol, const std::optional<Tensor>& price,
                               const std::optional<Tensor>& idx, int64_t max_rounds,
                               bool deterministic) {
  const Clouds size = y.has_value() ? check_clouds(x, *y, INT64_MAX) : check_costs(x);
  return {size,
          dense(x),
          y.has_value() ? std::optional<Tensor>(dense(*y)) : std::nullopt,
          check_lengths(x_lengths, x),
          check_lengths(y_lengths, x),
          check_optional(price, x, {size.B, std::max(size.N, size.M)}, ScalarType::Double, "price",
                         "[B, max(N, M)]"),
          check_optional(idx, x, {size.B, size.N}, ScalarType::Long, "idx", "[B, N]"),
          squared && y.has_value(),
          deterministic,
          {rtol, atol},
          max_rounds,
          new_tensor(x, {size.B, size.N}, ScalarType::Long),
          new_tensor(x, {size.B}, ScalarType::Double),
          new_tensor(x, {size.B}, ScalarType::Double),
          new_tensor(x, {size.B, std::max(size.N, size.M)}, ScalarType::Double),
          new_tensor(x, {size.B}, ScalarType::Long),
          new_tensor(x, {size.B}, ScalarType::Bool)};
}

}  // namespace pointloss
