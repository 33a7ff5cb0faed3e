// SPDX-License-Identifier: MIT
// Gradient of nearest in both clouds at once, for many small clouds of three axes.
//
// Problem: that of backward.cuh in any order, without a second launch and without one atomic in
// global memory for each coordinate.
// Method: a block has a part of a cloud's rows in shared memory. It stores their own terms, and
// looks through the other cloud for the rows whose neighbours they are. Lanes of a warp whose rows
// have one neighbour add their terms first, in as many steps as their number has bits, so that a
// neighbour of many costs no more than others.
// Map: block = (direction, cloud, part of at most kGatherRows rows); thread = a row of the part,
// then rows of the other cloud.
// Cost: each part reads the indices of the whole other cloud; O(B (N + M)) terms.
#pragma once

#include "backward.cuh"

namespace pointloss {

// Rows of a part at most, and of a cloud; and rows of all clouds from which on it is faster. H200,
// us, two launches and this: 32 pairs of 2048 points 10.2 and 9.3, with most rows' neighbours among
// a few 20.6 and 9.4, 128 of 512 9.9 and 7.4, 2048 of 64 15.3 and 11.6; but 32 of 1024 6.6 and 8.2,
// 32 of 4096 17.6 and 25.0. One gradient of 32 of 2048: 7.0 and 9.2.
constexpr int kGatherRows = 1024, kGatherMost = 2048;
constexpr int64_t kGatherFrom = 1 << 16;

// What row i of cloud b adds to its own gradient, given its neighbour j, which gets the opposite.
template <int kNorm, class T>
__device__ __forceinline__ void term_of(const BackwardDirection<T>& d, int64_t b, int64_t i,
                                        int64_t j, T (&term)[3]) {
  const T *row = d.a + (b * d.N + i) * 3, *other = d.b + (b * d.M + j) * 3;
  const T grad = d.gradient.template at<kNorm, 3>(b, i, row, other, 3);
#pragma unroll
  for (int k = 0; k < 3; ++k) term[k] = grad * distance_slope<kNorm>(row[k] - other[k]);
}

// Takes the terms of a warp's lanes that are `in` from sums [., 3], those of one target together.
template <class T>
__device__ __forceinline__ void take_together(bool in, int target, T (&term)[3], T* sums) {
  const unsigned lane = threadIdx.x % 32;
  const unsigned same = __match_any_sync(kWholeWarp, in ? target : -1 - static_cast<int>(lane));
  // Each lane adds the next of its group; then every second one has been added and drops out.
  unsigned later = same & ~((2u << lane) - 1), rank = __popc(same & ((1u << lane) - 1));
  const bool first = rank == 0;
  while (__any_sync(kWholeWarp, later != 0)) {
    const int next = __ffs(later) - 1;
#pragma unroll
    for (int k = 0; k < 3; ++k) {
      const T other = __shfl_sync(kWholeWarp, term[k], next & 31);
      if (next >= 0) term[k] += other;
    }
    later &= ~__ballot_sync(kWholeWarp, rank & 1);
    rank >>= 1;
  }
  if (!in || !first) return;
#pragma unroll
  for (int k = 0; k < 3; ++k) atomicAdd(sums + 3 * target + k, -term[k]);
}

// The gradient of rows [first, first + rows) of cloud b, no more than threads, by a block: their
// own terms and what arrives from `back`, in sums [rows, 3].
template <int kNorm, class T>
__device__ __forceinline__ void gather_part(const BackwardDirection<T>& d,
                                            const BackwardDirection<T>& back, int64_t b,
                                            int64_t first, int rows, T* sums) {
  constexpr int kAhead = 2;  // rows of the other cloud that a thread reads before it adds
  const int threads = blockDim.x, own = threadIdx.x;
  const int64_t others = back.gradient.grad == nullptr ? 0 : back.N;
  int64_t target[kAhead];
  const auto read = [&](int64_t from) {
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      const int64_t i = from + k * threads + own;
      target[k] = i < others ? back.idx[b * back.N + i] - first : -1;
    }
  };
  read(0);
  if (own < rows) {
    const int64_t i = first + own, j = d.gradient.grad == nullptr ? -1 : d.idx[b * d.N + i];
    const Neighbour neighbour(j, d.M);
    const T otherwise = neighbour.template otherwise<T>();
    T term[3] = {otherwise, otherwise, otherwise};
    if (neighbour.found) term_of<kNorm>(d, b, i, j, term);
#pragma unroll
    for (int k = 0; k < 3; ++k) sums[3 * own + k] = term[k];
  }
  __syncthreads();
  for (int64_t from = 0; from < others; from += kAhead * threads) {
    if (from > 0) read(from);
    T term[kAhead][3] = {};
    bool in[kAhead];
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      in[k] = target[k] >= 0 && target[k] < rows;
      if (!in[k]) continue;
      term_of<kNorm>(back, b, from + k * threads + own, first + target[k], term[k]);
    }
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      take_together(in[k], static_cast<int>(target[k]), term[k], sums);
    }
  }
  __syncthreads();
  T* grad_a = d.grad_a + (b * d.N + first) * 3;
  for (int v = own; v < 3 * rows; v += threads) grad_a[v] = sums[v];
}

// blockIdx.y is the direction whose own rows' gradients it writes, in parts of at most `most` rows.
template <int kNorm, class T>
__global__ void __launch_bounds__(kGatherRows)
    nearest_gather_kernel(const BackwardParams<T> p, int most) {
  wait_for_previous_kernel();
  extern __shared__ float4 gathered[];
  const BackwardDirection<T>& d = p.direction[blockIdx.y];
  const int64_t parts = ceil_div(d.N, most);
  for (int64_t task = blockIdx.x; task < p.B * parts; task += gridDim.x) {
    const int64_t b = task / parts, first = (task - b * parts) * most;
    const int rows = static_cast<int>(d.N - first < most ? d.N - first : most);
    gather_part<kNorm>(d, p.direction[1 - blockIdx.y], b, first, rows,
                       reinterpret_cast<T*>(gathered));
    __syncthreads();  // the sums have been stored
  }
}

// Whether it is faster than two launches with atomics in global memory.
template <class T>
bool gathers(const BackwardParams<T>& p) {
  const auto& [there, back] = p.direction;
  const int64_t most = there.N > back.N ? there.N : back.N;
  return p.D == 3 && there.grad_a != nullptr && back.grad_a != nullptr && most <= kGatherMost &&
         p.B * most >= kGatherFrom;
}

template <int kNorm, class T>
cudaError_t launch_gather(const BackwardParams<T>& p, cudaStream_t stream) {
  const int64_t most = p.direction[0].N > p.direction[1].N ? p.direction[0].N : p.direction[1].N;
  const int64_t parts = ceil_div(most, kGatherRows), rows = ceil_div(most, parts);  // of one size
  const int threads = static_cast<int>(32 * ceil_div(rows, 32));
  return launch_early(&nearest_gather_kernel<kNorm, T>,
                      {dim3(grid_size(p.B * parts), 2), threads, 3 * rows * sizeof(T)}, stream, p,
                      static_cast<int>(rows));
}

}  // namespace pointloss
