// SPDX-License-Identifier: MIT
// The k nearest neighbours by brute force: each row of x against all of y, exact.
//
// Map: a warp = a row of x with its list (list.cuh), a block = kBruteThreads / 32 rows of one
// cloud; y passes through shared memory in tiles as in ../brute_force.cuh, and each lane takes
// another point of it.
// Cost: N * M distances and about k (1 + ln(M / k)) insertions a row, for points in random order.
// Guarantee: the k least pairs (distance, index), sorted.
#pragma once

#include "../brute_force.cuh"
#include "list.cuh"

namespace pointloss {

// `search` with dist and idx [B, N, k]; M < 2^31.
template <class T>
struct KBruteForceParams {
  BruteForceParams<T> search;
  int k;
};

template <int kNorm, int kDim, int kSlots, class T>
__global__ void __launch_bounds__(kBruteThreads)
    k_brute_force_kernel(const KBruteForceParams<T> params) {
  __shared__ T tile[kTileValues];
  constexpr int kRows = kBruteThreads / 32;
  const BruteForceParams<T>& p = params.search;
  const int dims = kDim > 0 ? kDim : static_cast<int>(p.D), k = params.k;
  const int tile_points = kTileValues / dims, lane = threadIdx.x % 32;
  const int64_t blocks_per_cloud = (p.N + kRows - 1) / kRows;
  for (int64_t task = blockIdx.x; task < p.B * blocks_per_cloud; task += gridDim.x) {
    const int64_t b = task / blocks_per_cloud;
    const int64_t i = task % blocks_per_cloud * kRows + threadIdx.x / 32;
    const int64_t n = valid_length(p.x_lengths, b, p.N), m = valid_length(p.y_lengths, b, p.M);
    const bool bad = n < 0 || m < 0;
    const T* query = p.x + (b * p.N + i) * dims;
    T q[kDim > 0 ? kDim : 1];
    for (int d = 0; d < kDim; ++d) q[d] = i < n ? query[d] : T(0);
    WarpList<kSlots, T> list(k);
    for (int64_t start = 0; !bad && start < m; start += tile_points) {
      const int count = static_cast<int>(m - start < tile_points ? m - start : tile_points);
      __syncthreads();  // the previous tile has been read
      load_tile(p.y + b * p.M * dims, start, count, dims, tile);
      __syncthreads();
      if (i >= n) continue;
      for (int first = 0; first < count; first += 32) {
        const int j = first + lane;
        T d = INFINITY;
        if (j < count) d = distance<kNorm, kDim>(kDim > 0 ? q : query, tile + j, count, dims);
        list.offer(d, static_cast<int>(start) + j);
      }
    }
    if (i >= p.N) continue;
    T* row = p.dist + (b * p.N + i) * k;
    int64_t* index_row = p.idx + (b * p.N + i) * k;
    if (bad || i >= n) {
      store_none(k, bad ? T(NAN) : T(0), row, index_row);
    } else if (has_nan(query, dims)) {
      store_none(k, T(NAN), row, index_row);
    } else {
      list.store(row, index_row);
    }
  }
}

}  // namespace pointloss
