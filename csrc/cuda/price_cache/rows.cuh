// SPDX-License-Identifier: MIT
// The start of a batch's matchings from the cache, and what they leave there.
//
// Map: one block = one cloud; one thread = its columns k, k + 256, ... No atomics: of clouds that
// share a row only the last of the batch writes.
#pragma once

#include <algorithm>

#include "../../common/price_cache.h"
#include "../shared/launch.cuh"

namespace pointloss {

constexpr int kPriceCacheThreads = 256;

static __global__ void __launch_bounds__(kPriceCacheThreads)
    price_cache_read_kernel(const PriceCacheRead p) {
  for (int64_t b = blockIdx.x; b < p.B; b += gridDim.x) {
    for (int64_t k = threadIdx.x; k < p.points; k += kPriceCacheThreads) price_cache_read(p, b, k);
  }
}

// Map: one thread = one row of the cache.
static __global__ void __launch_bounds__(kPriceCacheThreads)
    price_cache_age_kernel(int64_t* age, int64_t samples) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kPriceCacheThreads;
  int64_t s = static_cast<int64_t>(blockIdx.x) * kPriceCacheThreads + threadIdx.x;
  for (; s < samples; s += step) ++age[s];
}

static __global__ void __launch_bounds__(kPriceCacheThreads)
    price_cache_write_kernel(const PriceCacheWrite p) {
  for (int64_t b = blockIdx.x; b < p.B; b += gridDim.x) {
    const int64_t row = p.row(b);
    bool later = false;
    for (int64_t c = b + 1 + threadIdx.x; c < p.B; c += kPriceCacheThreads) {
      later = later || p.ids[c] == row;
    }
    const bool writes = __syncthreads_or(later) == 0 && row >= 0;
    if (threadIdx.x == 0) {
      p.judged[b] = row < 0 ? NAN : p.cost[b];
      if (writes) p.age[row] = 0;
    }
    if (!writes) continue;
    for (int64_t k = threadIdx.x; k < p.points; k += kPriceCacheThreads) {
      price_cache_write(p, b, k);
    }
  }
}

// Both enqueue on `stream`: no allocation, no synchronisation, capturable in a graph.
inline cudaError_t launch_price_cache_read(const PriceCacheRead& p, cudaStream_t stream) {
  if (p.B == 0 || p.points == 0) return cudaSuccess;
  return launch(&price_cache_read_kernel, {grid_size(p.B), kPriceCacheThreads}, stream, p);
}

inline cudaError_t launch_price_cache_write(const PriceCacheWrite& p, cudaStream_t stream) {
  const unsigned blocks = grid_size(ceil_div(p.samples, kPriceCacheThreads));
  cudaError_t error = cudaSuccess;
  if (blocks > 0) {
    error = launch(&price_cache_age_kernel, {blocks, kPriceCacheThreads}, stream, p.age, p.samples);
  }
  if (p.B == 0 || error != cudaSuccess) return error;
  return launch(&price_cache_write_kernel, {grid_size(p.B), kPriceCacheThreads}, stream, p);
}

}  // namespace pointloss
