// SPDX-License-Identifier: MIT
// A call of pointloss::assign as both devices check and allocate it; the solvers know no torch.
#pragma once

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <tuple>

#include "assign.h"
#include "checks.h"

namespace pointloss {

using AssignTensors = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

struct AssignCall {
  Clouds size;
  Tensor x, y;  // contiguous
  std::optional<Tensor> x_lengths, y_lengths;
  std::optional<Tensor> start_price, start_idx;  // of a warm start, or nullopt
  bool squared, deterministic;
  double rtol;
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
                                  rtol,
                                  max_rounds,
                                  data_or_null<double>(start_price),
                                  data_or_null<int64_t>(start_idx)};
    const AssignResults results{
        idx.mutable_data_ptr<int64_t>(),    price.mutable_data_ptr<double>(),
        cost.mutable_data_ptr<double>(),    gap.mutable_data_ptr<double>(),
        rounds.mutable_data_ptr<int64_t>(), converged.mutable_data_ptr<bool>()};
    return {settings, results, x.const_data_ptr<T>(), y.const_data_ptr<T>()};
  }
  AssignTensors results() const { return {idx, cost, gap, price, rounds, converged}; }
};

inline AssignCall check_assign(const Tensor& x, const Tensor& y,
                               const std::optional<Tensor>& x_lengths,
                               const std::optional<Tensor>& y_lengths, bool squared, double rtol,
                               const std::optional<Tensor>& price, const std::optional<Tensor>& idx,
                               int64_t max_rounds, bool deterministic) {
  const Clouds size = check_clouds(x, y);
  return {size,
          dense(x),
          dense(y),
          check_lengths(x_lengths, x),
          check_lengths(y_lengths, x),
          check_optional(price, x, {size.B, std::max(size.N, size.M)}, ScalarType::Double, "price",
                         "[B, max(N, M)]"),
          check_optional(idx, x, {size.B, size.N}, ScalarType::Long, "idx", "[B, N]"),
          squared,
          deterministic,
          rtol,
          max_rounds,
          new_tensor(x, {size.B, size.N}, ScalarType::Long),
          new_tensor(x, {size.B}, ScalarType::Double),
          new_tensor(x, {size.B}, ScalarType::Double),
          new_tensor(x, {size.B, std::max(size.N, size.M)}, ScalarType::Double),
          new_tensor(x, {size.B}, ScalarType::Long),
          new_tensor(x, {size.B}, ScalarType::Bool)};
}

}  // namespace pointloss
