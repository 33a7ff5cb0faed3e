// SPDX-License-Identifier: MIT
// A call of pointloss::emd_backward as both devices check and allocate it.
#pragma once

#include <torch/csrc/stable/library.h>

#include <string>
#include <tuple>

#include "../checks.h"
#include "../emd.h"

namespace pointloss {

struct EmdBackwardCall {
  Clouds size;
  Tensor x, y, idx, cost;  // contiguous
  std::optional<Tensor> x_lengths, y_lengths;
  Tensor grad;
  int64_t stride[2];
  Reduction reduction;
  bool squared;
  Tensor grad_x, grad_y;  // results

  template <class T>
  EmdBackward<T> params() {
    const auto [B, N, M, D] = size;
    return {x.const_data_ptr<T>(),
            y.const_data_ptr<T>(),
            idx.const_data_ptr<int64_t>(),
            cost.const_data_ptr<double>(),
            grad.const_data_ptr<T>(),
            {stride[0], stride[1]},
            {reduction.share[0], reduction.share[1]},
            squared,
            B,
            N,
            M,
            D,
            data_or_null<T>(grad_x),
            data_or_null<T>(grad_y)};
  }
};

inline EmdBackwardCall check_emd_backward(const Tensor& grad, const Tensor& x, const Tensor& y,
                                          const std::optional<Tensor>& x_lengths,
                                          const std::optional<Tensor>& y_lengths, const Tensor& idx,
                                          const Tensor& cost, bool squared,
                                          const std::string& over_points,
                                          const std::string& over_batch, bool need_x, bool need_y) {
  const Clouds size = check_clouds(x, y, INT64_MAX);
  const auto n = check_lengths(x_lengths, x), m = check_lengths(y_lengths, x);
  const bool per_point = over_points == "none";
  const Reduction reduction =
      check_reduction(size, data_or_null<int64_t>(n), data_or_null<int64_t>(m), 2, squared,
                      per_point ? "sum" : over_points, per_point ? "none" : over_batch);
  STD_TORCH_CHECK(grad.scalar_type() == x.scalar_type() && grad.device() == x.device(),
                  "the value's gradient has another dtype or device");
  const int64_t dims = reduction.per_cloud + per_point;
  STD_TORCH_CHECK(grad.dim() == dims && (dims < 1 || grad.size(0) == size.B) &&
                      (dims < 2 || grad.size(1) == size.N),
                  "the value's gradient has the wrong shape");
  const auto partners = check_optional(idx, x, {size.B, size.N}, ScalarType::Long, "idx", "[B, N]");
  const auto costs = check_optional(cost, x, {size.B}, ScalarType::Double, "cost", "[B]");
  return {size,
          dense(x),
          dense(y),
          *partners,
          *costs,
          n,
          m,
          grad,
          {dims < 1 ? 0 : grad.stride(0), dims < 2 ? 0 : grad.stride(1)},
          reduction,
          squared,
          new_gradient(x, need_x),
          new_gradient(y, need_y)};
}

}  // namespace pointloss
