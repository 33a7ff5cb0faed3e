// SPDX-License-Identifier: MIT
// What the gradient of found neighbours is computed from, be it for nearest or for chamfer.
#pragma once

#include <torch/csrc/stable/library.h>

#include <tuple>
#include <vector>

#include "../checks.h"
#include "../reduction.h"

namespace pointloss {

struct BackwardCall {
  Clouds size;
  int64_t norm;
  Tensor x, y;                   // contiguous
  const int64_t* idx[2];         // [B, N] into y, [B, M] into x; one without gradient is not read
  DistanceGradient gradient[2];  // of x's distances and of y's
  bool needed[2];                // the gradients of x and y
  std::vector<Tensor> held;      // what the pointers point into
};

inline BackwardCall check_backward(const std::optional<Tensor>& grad_x,
                                   const std::optional<Tensor>& grad_y, const Tensor& x,
                                   const Tensor& y, const Tensor& idx_x, const Tensor& idx_y,
                                   int64_t norm, bool need_x, bool need_y) {
  const Clouds size = check_clouds(x, y);
  STD_TORCH_CHECK(norm == 1 || norm == 2, "norm must be 1 or 2");
  const auto check = [&](const std::optional<Tensor>& grad, const Tensor& idx,
                         int64_t rows) -> DistanceGradient {
    if (!grad.has_value()) return {};
    STD_TORCH_CHECK(grad->dim() == 2 && grad->size(0) == size.B && grad->size(1) == rows,
                    "a distance's gradient has the wrong shape");
    STD_TORCH_CHECK(grad->scalar_type() == x.scalar_type() && grad->device() == x.device(),
                    "a distance's gradient has another dtype or device");
    STD_TORCH_CHECK(idx.dim() == 2 && idx.size(0) == size.B && idx.size(1) == rows &&
                        idx.scalar_type() == ScalarType::Long && idx.device() == x.device(),
                    "idx must be int64, of its distance's shape and device");
    // Strided: a sum's gradient is expanded.
    return {grad->const_data_ptr(),
            {grad->stride(0), grad->stride(1)},
            {1, false, nullptr, rows},
            false};
  };
  const DistanceGradient to_y = check(grad_x, idx_x, size.N), to_x = check(grad_y, idx_y, size.M);
  const Tensor rows = dense(idx_x), columns = dense(idx_y);
  return {size,
          norm,
          dense(x),
          dense(y),
          {rows.const_data_ptr<int64_t>(), columns.const_data_ptr<int64_t>()},
          {to_y, to_x},
          {need_x, need_y},
          {rows, columns}};
}

using Gradients = std::tuple<Tensor, Tensor>;  // to x and y

}  // namespace pointloss
