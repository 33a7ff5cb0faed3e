// SPDX-License-Identifier: MIT
// Scales a pair of clouds, or a matrix of costs, by a power of two, so that squares stay in range
// and nothing is rounded.
#pragma once

#include "../workspace.cuh"
#include "block.cuh"

namespace pointloss {

// Scales both clouds; false when a coordinate is not finite. `exponent` is INT_MIN when all points
// coincide.
template <typename T>
__device__ bool scale_clouds(const PairArrays& c, BlockShared& shared, const T* bidder,
                             const T* object, int& exponent) {
  double half_extent = 0.0, bad = 0.0, low = 0.0, high = 0.0;
  const auto take_bounds = [&](int64_t d) {
    double least = INFINITY, greatest = -INFINITY;
    const auto take = [&](const T* points, int64_t count) {
      for (int64_t k = threadIdx.x; k < count; k += kGeneralThreads) {
        const auto v = static_cast<double>(points[k * c.dim + d]);
        least = fmin(least, v), greatest = fmax(greatest, v);
        if (!isfinite(v)) bad = 1.0;
      }
    };
    take(bidder, c.K), take(object, c.L);
    low = block_reduce(shared, least, Min());
    high = block_reduce(shared, greatest, Max());
  };
  for (int64_t d = 0; d < c.dim; ++d) {
    take_bounds(d);
    half_extent = fmax(half_extent, high / 2 - low / 2);
  }
  if (block_reduce(shared, bad, Max()) > 0.0) return false;
  exponent = half_extent > 0.0 ? assign_exponent(half_extent) : INT_MIN;
  if (half_extent == 0.0) return true;

  const AssignScale scale(exponent);
  for (int64_t d = 0; d < c.dim; ++d) {
    // Float input is exact in float as it is; double input is so only around its centre.
    if (!c.float_exact) take_bounds(d);
    const double centre = c.float_exact ? 0.0 : scale(low / 2 + high / 2);
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

// Calls use(j, cost) for the costs of bidder i and infinity behind them, by a warp; each lane has
// eight loads under way.
template <class Use>
__device__ __forceinline__ void visit_row(const PairArrays& c, int64_t i, Use use) {
  constexpr int kLoads = 8;
  for (int64_t from = threadIdx.x % 32; from < row_stride(c.L); from += 32 * kLoads) {
    double cost[kLoads];
#pragma unroll
    for (int k = 0; k < kLoads; ++k) {
      const int64_t j = from + 32 * k;
      cost[k] = j < c.L ? c.matrix.given(i, j) : INFINITY;
    }
#pragma unroll
    for (int k = 0; k < kLoads; ++k) use(from + 32 * k, cost[k]);
  }
}

// Scales the matrix c.matrix and finds the bidders' least costs, with a warp to each bidder; false
// when a cost is NaN or -infinity.
__device__ inline bool scale_costs(PairArrays& c, BlockShared& shared, int& exponent) {
  double largest = 0.0, bad = 0.0;
  for (int64_t i = threadIdx.x / 32; i < c.K; i += kGeneralWarps) {
    double least = INFINITY;
    visit_row(c, i, [&](int64_t, double cost) {
      if (cost == INFINITY) return;
      if (!isfinite(cost)) bad = 1.0;
      largest = fmax(largest, fabs(cost));
      least = fmin(least, cost);
    });
    least = group_reduce(least, Min());
    if (threadIdx.x % 32 == 0) c.least[i] = least;
  }
  largest = block_reduce(shared, largest, Max());
  if (block_reduce(shared, bad, Max()) > 0.0) return false;
  exponent = largest > 0.0 ? assign_exponent(largest) : 0;
  c.matrix.scale = AssignScale(exponent);
  const int64_t stride = row_stride(c.L);
  for (int64_t i = threadIdx.x / 32; i < c.K; i += kGeneralWarps) {
    const double least = c.matrix.scale(c.least[i]);
    visit_row(c, i, [&](int64_t j, double cost) {
      if (j < stride) c.above_f[i * stride + j] = static_cast<float>(c.matrix.scale(cost) - least);
    });
  }
  for (int64_t j = c.L + threadIdx.x; j < stride; j += kGeneralThreads) c.price_f[j] = 0.0f;
  __syncthreads();
  return true;
}

}  // namespace pointloss
