// SPDX-License-Identifier: MIT
// Gradient of nearest for clouds of three dimensions that a block can look through: one launch.
//
// Method: a block owns some rows of one cloud. It looks through all neighbours that the other cloud
// has, adds up in shared memory what arrives at its own rows, and writes each row once, with the
// row's own term. Nothing is cleared and nothing is added in global memory.
// Map: one thread = one row, and one neighbour in every pass over the other cloud; blockIdx.y =
// cloud.
// Cost: every block reads all M neighbours of the other cloud, so O(N M / kGatherRows) in all, from
// the L2 cache; kGatherMost bounds the size where that is less than another pass.
// Lanes of a warp with one target add up first: many rows may have one neighbour, and shared memory
// adds floats by compare and swap. The order of warps is open, so the last bits are.
#pragma once

#include "backward.cuh"

namespace pointloss {

// Rows of a block at most, and neighbours that a thread reads ahead.
constexpr int kGatherRows = 512, kGatherAhead = 4;
constexpr int64_t kGatherMost = 4096;

// Adds the lanes' terms to sums[3 * target]; all lanes of the warp take part, with target -1 if
// they have none.
template <class T>
__device__ void add_by_target(T* sums, int target, T (&term)[3]) {
  const int lane = threadIdx.x % 32;
  const unsigned peers = __match_any_sync(kWholeWarp, target);
  const int first = __ffs(peers) - 1;
  unsigned rest = target >= 0 && lane == first ? peers & (peers - 1) : 0;
  T total[3] = {term[0], term[1], term[2]};
  while (__any_sync(kWholeWarp, rest != 0)) {
    const int from = rest != 0 ? __ffs(rest) - 1 : lane;
#pragma unroll
    for (int k = 0; k < 3; ++k) {
      const T other = __shfl_sync(kWholeWarp, term[k], from);
      if (rest != 0) total[k] += other;
    }
    rest &= rest - 1;
  }
  if (target < 0 || lane != first) return;
#pragma unroll
  for (int k = 0; k < 3; ++k) atomicAdd(sums + 3 * target + k, total[k]);
}

// What row i of cloud b of direction d adds to its own gradient, given its neighbour j; the
// neighbour gets the opposite.
template <int kNorm, class T>
__device__ void term_of(const BackwardDirection<T>& d, int64_t b, int64_t i, int64_t j,
                        T (&term)[3]) {
  const T* row = d.a + (b * d.N + i) * 3;
  const T* neighbour = d.b + (b * d.M + j) * 3;
  const T grad = d.gradient.template at<kNorm, 3>(b, i, row, neighbour, 3);
#pragma unroll
  for (int k = 0; k < 3; ++k) term[k] = grad * distance_slope<kNorm>(row[k] - neighbour[k]);
}

template <int kNorm, class T>
__global__ void __launch_bounds__(kGatherRows) nearest_gather_kernel(const BackwardParams<T> p) {
  __shared__ T sums[kGatherRows * 3];
  const BackwardDirection<T>& own = p.direction[blockIdx.y];
  const BackwardDirection<T>& back = p.direction[1 - blockIdx.y];
  wait_for_previous_kernel();
  if (own.grad_a == nullptr) return;
  const int64_t rows = blockDim.x, chunks = ceil_div(own.N, rows);
  for (int64_t task = blockIdx.x; task < p.B * chunks; task += gridDim.x) {
    const int64_t b = task / chunks, begin = (task - b * chunks) * rows;
    const int64_t end = min(begin + rows, own.N);
#pragma unroll
    for (int k = 0; k < 3; ++k) sums[k * rows + threadIdx.x] = 0;
    __syncthreads();
    const int64_t arriving = back.gradient.grad == nullptr ? 0 : back.N;
    for (int64_t i = threadIdx.x; i - threadIdx.x < arriving; i += rows * kGatherAhead) {
      int64_t j[kGatherAhead];
#pragma unroll
      for (int a = 0; a < kGatherAhead; ++a) {
        const int64_t row = i + a * rows;
        j[a] = row < arriving ? back.idx[b * back.N + row] : -1;
      }
#pragma unroll
      for (int a = 0; a < kGatherAhead; ++a) {
        const bool here = j[a] >= begin && j[a] < end;
        if (!__any_sync(kWholeWarp, here)) continue;
        T term[3] = {0, 0, 0};
        if (here) term_of<kNorm>(back, b, i + a * rows, j[a], term);
        add_by_target(sums, here ? static_cast<int>(j[a] - begin) : -1, term);
      }
    }
    __syncthreads();
    const int64_t i = begin + threadIdx.x;
    if (i < end) {
      const int64_t r = b * own.N + i;
      const Neighbour neighbour(own.gradient.grad == nullptr ? -1 : own.idx[r], own.M);
      T term[3];
      if (neighbour.found) {
        term_of<kNorm>(own, b, i, own.idx[r], term);
      } else {
        term[0] = term[1] = term[2] = neighbour.template otherwise<T>();
      }
#pragma unroll
      for (int k = 0; k < 3; ++k) own.grad_a[r * 3 + k] = term[k] - sums[3 * threadIdx.x + k];
    }
    __syncthreads();  // sums have been read
  }
}

}  // namespace pointloss
