// SPDX-License-Identifier: MIT
// Nearest neighbours by brute force: each row of x against all of y, exact.
//
// Map: one thread = one row of x, one block = kBruteThreads rows of one cloud; y passes through
// shared memory in tiles of kTileValues values, transposed, so that a warp reads one word for all
// its lanes.
// Cost: N * M distances, O(1) extra memory. For float, D = 3 and norm 2 a pair takes 13 issue
// slots.
// Guarantee: ties take the lowest index, because columns are visited in order and only a strictly
// smaller distance replaces the best.
#pragma once

#include "../../common/distance.h"
#include "tuning.cuh"

namespace pointloss {

template <class T>
struct BruteForceParams {
  const T* x;                // [B, N, D]
  const T* y;                // [B, M, D]
  const int64_t* x_lengths;  // [B] or null
  const int64_t* y_lengths;  // [B] or null
  T* dist;                   // [B, N]
  int64_t* idx;              // [B, N]
  int64_t B, N, M, D;
};

// Points [start, start + count) of one cloud y [M, D] into tile [D, count].
template <class T>
__device__ __forceinline__ void load_tile(const T* y, int64_t start, int count, int dims, T* tile) {
  for (int v = threadIdx.x; v < count * dims; v += kBruteThreads) {
    tile[(v % dims) * count + v / dims] = y[start * dims + v];
  }
}

template <int kNorm, int kDim, class T>
__global__ void __launch_bounds__(kBruteThreads) brute_force_kernel(const BruteForceParams<T> p) {
  __shared__ T tile[kTileValues];
  const int dims = kDim > 0 ? kDim : static_cast<int>(p.D);
  const int tile_points = kTileValues / dims;
  const int64_t blocks_per_cloud = (p.N + kBruteThreads - 1) / kBruteThreads;
  for (int64_t task = blockIdx.x; task < p.B * blocks_per_cloud; task += gridDim.x) {
    const int64_t b = task / blocks_per_cloud;
    const int64_t i = task % blocks_per_cloud * kBruteThreads + threadIdx.x;
    const int64_t n = valid_length(p.x_lengths, b, p.N), m = valid_length(p.y_lengths, b, p.M);
    const bool bad = n < 0 || m < 0;
    const T* query = p.x + (b * p.N + i) * dims;
    T q[kDim > 0 ? kDim : 1];  // registers for the fast paths; other D read x through the cache
    for (int k = 0; k < kDim; ++k) q[k] = i < n ? query[k] : T(0);
    T best = INFINITY;
    int64_t best_j = -1;
    for (int64_t start = 0; !bad && start < m; start += tile_points) {
      const int count = static_cast<int>(m - start < tile_points ? m - start : tile_points);
      __syncthreads();  // the previous tile has been read
      load_tile(p.y + b * p.M * dims, start, count, dims, tile);
      __syncthreads();
      if (i >= n) continue;
      int in_tile = -1;  // 32 bits: half the instructions of a choice
      for (int j = 0; j < count; ++j) {
        const T d = distance<kNorm, kDim>(kDim > 0 ? q : query, tile + j, count, dims);
        if (d < best) best = d, in_tile = j;  // false for NaN
      }
      if (in_tile >= 0) best_j = start + in_tile;
    }
    if (i >= p.N) continue;
    const bool valid = !bad && i < n;
    if (bad || (valid && has_nan(query, dims))) best = NAN, best_j = -1;
    p.dist[b * p.N + i] = bad || valid ? best : T(0);
    p.idx[b * p.N + i] = valid ? best_j : -1;
  }
}

}  // namespace pointloss
