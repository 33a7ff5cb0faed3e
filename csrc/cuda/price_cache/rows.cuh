// SPDX-License-Identifier: MIT
// The start of a batch's matchings from the cache, and what they leave there.
//
// Map: one block = one cloud; one thread = its columns k, k + 256, ... No atomics: of clouds that
// share a row only the last of the batch writes. Behind the clouds' blocks of a write come those of
// the ages, with a thread to a row of the cache, which looks for it among the batch's.
#pragma once

#include <algorithm>

#include "../../common/price_cache.h"
#include "../shared/launch.cuh"

namespace pointloss {

constexpr int kPriceCacheThreads = 256;
constexpr int64_t kPriceCacheClouds = 1 << 16;  // blocks for clouds, so that the ages have some too

static __global__ void __launch_bounds__(kPriceCacheThreads)
    price_cache_read_kernel(const PriceCacheRead p) {
  for (int64_t b = blockIdx.x; b < p.B; b += gridDim.x) {
    for (int64_t k = threadIdx.x; k < p.points; k += kPriceCacheThreads) price_cache_read(p, b, k);
  }
}

static __global__ void __launch_bounds__(kPriceCacheThreads)
    price_cache_write_kernel(const PriceCacheWrite p, int64_t clouds) {
  for (int64_t b = blockIdx.x; b < p.B && blockIdx.x < clouds; b += clouds) {
    const int64_t row = p.row(b);
    bool later = false;
    for (int64_t c = b + 1 + threadIdx.x; c < p.B; c += kPriceCacheThreads) {
      later = later || p.ids[c] == row;
    }
    const bool writes = __syncthreads_or(later) == 0 && row >= 0;
    if (threadIdx.x == 0) p.judged[b] = row < 0 ? NAN : p.cost[b];
    if (!writes) continue;
    for (int64_t k = threadIdx.x; k < p.points; k += kPriceCacheThreads) {
      price_cache_write(p, b, k);
    }
  }
  if (blockIdx.x < clouds) return;
  const int64_t step = (gridDim.x - clouds) * kPriceCacheThreads;
  int64_t s = (blockIdx.x - clouds) * kPriceCacheThreads + threadIdx.x;
  for (; s < p.samples; s += step) {
    int64_t age = p.age[s] + 1;
    for (int64_t b = 0; b < p.B; ++b) age = p.ids[b] == s ? 0 : age;
    p.age[s] = age;
  }
}

// Both enqueue on `stream`: no allocation, no synchronisation, capturable in a graph.
inline cudaError_t launch_price_cache_read(const PriceCacheRead& p, cudaStream_t stream) {
  if (p.B == 0 || p.points == 0) return cudaSuccess;
  return launch(&price_cache_read_kernel, {grid_size(p.B), kPriceCacheThreads}, stream, p);
}

inline cudaError_t launch_price_cache_write(const PriceCacheWrite& p, cudaStream_t stream) {
  const int64_t clouds = std::min<int64_t>(p.B, kPriceCacheClouds);
  const unsigned blocks = grid_size(clouds + ceil_div(p.samples, kPriceCacheThreads));
  if (blocks == 0) return cudaSuccess;
  return launch(&price_cache_write_kernel, {blocks, kPriceCacheThreads}, stream, p, clouds);
}

}  // namespace pointloss
