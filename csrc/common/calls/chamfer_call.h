// SPDX-License-Identifier: MIT
// Calls of pointloss::chamfer and pointloss::chamfer_backward as both devices check and allocate
// them.
#pragma once

#include <string>

#include "nearest_backward_call.h"
#include "nearest_call.h"

namespace pointloss {

struct ChamferCall {
  NearestCall search;
  Reduction reduction;
  Tensor value;  // [] or [B]
  Tensor idx;    // int64: neighbours of all points of x, then of y

  // The search's results, with distances in `dist`, B * (N + columns) of them.
  template <class T>
  NearestOutput output(T* dist) {
    const int64_t rows = search.size.B * search.size.N;
    int64_t* to_y = idx.mutable_data_ptr<int64_t>();
    if (!search.both) return {dist, to_y, nullptr, nullptr};
    return {dist, to_y, dist + rows, to_y + rows};
  }
};

inline ChamferCall check_chamfer(const Tensor& x, const Tensor& y,
                                 const std::optional<Tensor>& x_lengths,
                                 const std::optional<Tensor>& y_lengths, int64_t norm, bool squared,
                                 bool both, const std::string& over_points,
                                 const std::string& over_batch) {
  NearestCall search = check_nearest(x, y, x_lengths, y_lengths, norm, both, "auto");
  const Clouds& size = search.size;
  const Reduction reduction =
      check_reduction(size, search.x_lengths_data(), search.y_lengths_data(), norm, squared,
                      over_points, over_batch);
  Tensor value = reduction.per_cloud ? new_tensor(x, {size.B}, x.scalar_type())
                                     : new_tensor(x, {}, x.scalar_type());
  Tensor idx = new_tensor(x, {size.B * (size.N + search.columns())}, ScalarType::Long);
  return {std::move(search), reduction, std::move(value), std::move(idx)};
}

inline BackwardCall check_chamfer_backward(const Tensor& grad, const Tensor& x, const Tensor& y,
                                           const std::optional<Tensor>& x_lengths,
                                           const std::optional<Tensor>& y_lengths,
                                           const Tensor& idx, int64_t norm, bool squared, bool both,
                                           const std::string& over_points,
                                           const std::string& over_batch, bool need_x,
                                           bool need_y) {
  const Clouds size = check_clouds(x, y);
  STD_TORCH_CHECK(norm == 1 || norm == 2, "norm must be 1 or 2");
  const auto n = check_lengths(x_lengths, x), m = check_lengths(y_lengths, x);
  const Reduction reduction =
      check_reduction(size, data_or_null<int64_t>(n), data_or_null<int64_t>(m), norm, squared,
                      over_points, over_batch);
  STD_TORCH_CHECK(grad.scalar_type() == x.scalar_type() && grad.device() == x.device(),
                  "the value's gradient has another dtype or device");
  STD_TORCH_CHECK(reduction.per_cloud ? grad.dim() == 1 && grad.size(0) == size.B : grad.dim() == 0,
                  "the value's gradient has the wrong shape");
  STD_TORCH_CHECK(idx.dim() == 1 && idx.numel() == size.B * (size.N + (both ? size.M : 0)) &&
                      idx.scalar_type() == ScalarType::Long && idx.device() == x.device(),
                  "idx must be what chamfer returns");
  const int64_t stride = reduction.per_cloud ? grad.stride(0) : 0;
  const auto gradient = [&](int side) -> DistanceGradient {
    return {grad.const_data_ptr(), {stride, 0}, reduction.share[side], reduction.root};
  };
  const Tensor found = dense(idx);
  const int64_t* to_y = found.const_data_ptr<int64_t>();
  BackwardCall call{size,
                    norm,
                    dense(x),
                    dense(y),
                    {to_y, to_y + size.B * size.N},
                    {gradient(0), both ? gradient(1) : DistanceGradient{}},
                    {need_x, need_y},
                    {found}};
  for (const auto& lengths : {n, m}) {
    if (lengths.has_value()) call.held.push_back(*lengths);
  }
  return call;
}

}  // namespace pointloss
