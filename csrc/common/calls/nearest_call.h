// SPDX-License-Identifier: MIT
// Calls of pointloss::nearest and k_nearest as both devices check and allocate them, and what a
// search for neighbours takes, be it for nearest or for chamfer.
#pragma once

#include <torch/csrc/stable/library.h>

#include <string>
#include <tuple>

#include "../checks.h"

namespace pointloss {

struct NearestCall {
  Clouds size;
  Tensor x, y;                                 // contiguous
  std::optional<Tensor> x_lengths, y_lengths;  // contiguous int64 [B], or nullopt
  int64_t norm;
  bool both;
  Method method;

  const int64_t* x_lengths_data() const { return data_or_null<int64_t>(x_lengths); }
  const int64_t* y_lengths_data() const { return data_or_null<int64_t>(y_lengths); }
  int64_t columns() const { return both ? size.M : 0; }  // points of y that look for neighbours
};

inline NearestCall check_nearest(const Tensor& x, const Tensor& y,
                                 const std::optional<Tensor>& x_lengths,
                                 const std::optional<Tensor>& y_lengths, int64_t norm, bool both,
                                 const std::string& method) {
  const Clouds size = check_clouds(x, y);
  STD_TORCH_CHECK(norm == 1 || norm == 2, "norm must be 1 or 2");
  const Method how = check_method(method);
  return {size, dense(x), dense(y), check_lengths(x_lengths, x), check_lengths(y_lengths, x),
          norm, both,     how};
}

// Where a search writes: distances in the clouds' dtype, [B, N] and [B, M].
struct NearestOutput {
  void* dist_x;
  int64_t* idx_x;
  void* dist_y;  // null, like idx_y, where only x looks for neighbours
  int64_t* idx_y;
};

using NearestTensors = std::tuple<Tensor, Tensor, Tensor, Tensor>;

// What search(call, output) finds, in new tensors.
template <class Search>
NearestTensors run_nearest(const NearestCall& call, const Search& search) {
  const auto [B, N, M, D] = call.size;
  Tensor dist_x = new_tensor(call.x, {B, N}, call.x.scalar_type());
  Tensor idx_x = new_tensor(call.x, {B, N}, ScalarType::Long);
  Tensor dist_y = new_tensor(call.x, {B, call.columns()}, call.x.scalar_type());
  Tensor idx_y = new_tensor(call.x, {B, call.columns()}, ScalarType::Long);
  search(call, NearestOutput{dist_x.mutable_data_ptr(), idx_x.mutable_data_ptr<int64_t>(),
                             call.both ? dist_y.mutable_data_ptr() : nullptr,
                             call.both ? idx_y.mutable_data_ptr<int64_t>() : nullptr});
  return {dist_x, idx_x, dist_y, idx_y};
}

constexpr int64_t kMostNeighbours = 64;

struct KNearestCall {
  NearestCall search;
  int64_t k;
  Tensor dist, idx;  // [B, N, k], to be filled

  NearestOutput output() const {
    return {dist.mutable_data_ptr(), idx.mutable_data_ptr<int64_t>(), nullptr, nullptr};
  }
};

inline KNearestCall check_k_nearest(const Tensor& x, const Tensor& y,
                                    const std::optional<Tensor>& x_lengths,
                                    const std::optional<Tensor>& y_lengths, int64_t norm, int64_t k,
                                    const std::string& method) {
  const NearestCall search = check_nearest(x, y, x_lengths, y_lengths, norm, false, method);
  STD_TORCH_CHECK(k >= 1 && k <= kMostNeighbours, "k must be in 1..", kMostNeighbours);
  const auto [B, N, M, D] = search.size;
  STD_TORCH_CHECK(M < INT32_MAX, "k_nearest takes fewer than 2^31 - 1 points in a cloud of y");
  return {search, k, new_tensor(x, {B, N, k}, x.scalar_type()),
          new_tensor(x, {B, N, k}, ScalarType::Long)};
}

}  // namespace pointloss
