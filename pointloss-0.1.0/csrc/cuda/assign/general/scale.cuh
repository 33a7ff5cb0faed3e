// SPDX-License-Identifier: MIT
// Scales a pair of clouds by a power of two, so that squares stay in range and nothing is rounded.
#pragma once

#include "../workspace.cuh"
#include "block.cuh"

namespace pointloss {

// Scales both clouds; false when a coordinate is not finite. `exponent` is INT_MIN when all points
// coincide.
template <typename T>
__device__ bool scale_clouds(const PairArrays& c, BlockShared& shared, const T* bidder,
                             const T* object, int& exponent) {
  double half_extent = 0.0, bad = 0.0;
  const auto bounds = [&](int64_t d, auto op, double start) {
    const double a = block_over(shared, c.K, start, op, [&](int64_t k) {
      return static_cast<double>(bidder[k * c.dim + d]);
    });
    const double b = block_over(shared, c.L, start, op, [&](int64_t k) {
      return static_cast<double>(object[k * c.dim + d]);
    });
    return op(a, b);
  };
  const auto not_finite = [](T v) { return isfinite(v) ? 0.0 : 1.0; };
  bad +=
      block_over(shared, c.K * c.dim, 0.0, Max(), [&](int64_t k) { return not_finite(bidder[k]); });
  bad +=
      block_over(shared, c.L * c.dim, 0.0, Max(), [&](int64_t k) { return not_finite(object[k]); });
  if (bad > 0.0) return false;
  for (int64_t d = 0; d < c.dim; ++d) {
    const double low = bounds(d, Min(), INFINITY), high = bounds(d, Max(), -INFINITY);
    half_extent = fmax(half_extent, high / 2 - low / 2);
  }
  exponent = half_extent > 0.0 ? assign_exponent(half_extent) : INT_MIN;
  if (half_extent == 0.0) return true;

  const AssignScale scale(exponent);
  for (int64_t d = 0; d < c.dim; ++d) {
    // Float input is exact in float as it is; double input is so only around its centre.
    const double centre =
        c.float_exact ? 0.0
                      : scale(bounds(d, Min(), INFINITY) / 2 + bounds(d, Max(), -INFINITY) / 2);
    for (int64_t k = threadIdx.x; k < c.K; k += kGeneralThreads) {
      const double v = scale(static_cast<double>(bidder[k * c.dim + d]));
      c.bidder[d * c.K + k] = v;
      c.bidder_f[d * c.K + k] = static_cast<float>(v - centre);
    }
    for (int64_t k = threadIdx.x; k < c.L; k += kGeneralThreads) {
      const double v = scale(static_cast<double>(object[k * c.dim + d]));
      c.object[d * c.L + k] = v;
      c.object_f[d * c.L + k] = static_cast<float>(v - centre);
    }
  }
  __syncthreads();
  return true;
}

}  // namespace pointloss
