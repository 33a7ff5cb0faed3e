// SPDX-License-Identifier: MIT
// A call of pointloss::k_nearest as both devices check and allocate it.
#pragma once

#include <torch/csrc/stable/library.h>

#include <cstdint>
#include <string>
#include <tuple>

#include "nearest_call.h"

namespace pointloss {

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
