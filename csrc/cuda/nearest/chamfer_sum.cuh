// SPDX-License-Identifier: MIT
// The reduction of chamfer: distances of both directions to a value, for all clouds or for each.
//
// Method: two levels of sums in float64 with a fixed order, so the value is deterministic.
// Map: chamfer_partial_kernel gives every warp kPartialRows rows of one direction of one cloud and
// writes one number, already weighted; chamfer_total_kernel adds a cloud's numbers, or all of them,
// in one block. The second is launched while the first runs (KernelChain).
// Cost: one pass over the distances, 8 bytes of workspace for kPartialRows of them.
#pragma once

#include <cmath>

#include "../../common/reduction.h"
#include "../shared/launch.cuh"
#include "../shared/warp.cuh"
#include "tuning.cuh"

namespace pointloss {

template <class T>
struct ChamferParams {
  const T* dist[2];     // [B, N], [B, M]
  Share share[2];       // with their sizes N and M
  int64_t partials[2];  // of a cloud's rows; 0 for a direction that was not asked for
  int64_t B;
  bool root;
  double* partial;  // [B, partials[0] + partials[1]]
  T* value;         // [values]
  int64_t values;   // 1, or B
};

template <class T>
__global__ void __launch_bounds__(kPartialThreads)
    chamfer_partial_kernel(const ChamferParams<T> p) {
  wait_for_previous_kernel();
  let_next_kernel_start();
  const int lane = threadIdx.x % 32;
  const int64_t per_cloud = p.partials[0] + p.partials[1], warps = kPartialThreads / 32;
  for (int64_t task = blockIdx.x * warps + threadIdx.x / 32; task < p.B * per_cloud;
       task += gridDim.x * warps) {
    const int64_t b = task / per_cloud, part = task - b * per_cloud;
    const int side = part >= p.partials[0];
    const Share& share = p.share[side];
    const T* dist = p.dist[side] + b * share.size;
    const int64_t first = (part - side * p.partials[0]) * kPartialRows + lane;
    double sum = 0;
#pragma unroll
    for (int64_t k = 0; k < kPartialRows; k += 32) {
      if (first + k >= share.size) continue;
      const T d = dist[first + k];
      sum += p.root ? std::sqrt(d) : d;
    }
    sum = warp_sum(sum);
    if (lane == 0) p.partial[task] = sum * share.template of<double>(b);
  }
}

template <class T>
__global__ void __launch_bounds__(kTotalThreads) chamfer_total_kernel(const ChamferParams<T> p) {
  __shared__ double warp_sums[kTotalThreads / 32];
  wait_for_previous_kernel();
  const int64_t count = p.B * (p.partials[0] + p.partials[1]) / (p.values > 0 ? p.values : 1);
  for (int64_t v = blockIdx.x; v < p.values; v += gridDim.x) {
    double sum = 0;
    for (int64_t k = threadIdx.x; k < count; k += blockDim.x) sum += p.partial[v * count + k];
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) warp_sums[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x < 32) {
      sum = warp_sum(threadIdx.x < blockDim.x / 32 ? warp_sums[threadIdx.x] : 0.0);
      if (threadIdx.x == 0) p.value[v] = static_cast<T>(sum);
    }
    __syncthreads();  // warp_sums have been read
  }
}

}  // namespace pointloss
