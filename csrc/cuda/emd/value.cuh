// SPDX-License-Identifier: MIT
// The value of matchings whose costs are known: of each point, of each cloud, or one for all.
//
// Map: emd_value_kernel adds the clouds of one value in one block, in float64 and in a fixed order,
// so the value is deterministic; emd_points_kernel gives a block one cloud. Cost: one launch that
// reads the costs, and for points the clouds.
#pragma once

#include "../../common/emd.h"
#include "../shared/launch.cuh"
#include "../shared/warp.cuh"

namespace pointloss {

constexpr int kEmdValueThreads = 256;

// `values`: one, or one per cloud.
template <class T>
__global__ void __launch_bounds__(kEmdValueThreads)
    emd_value_kernel(const EmdValue<T> p, int64_t values) {
  __shared__ double warp_sums[kEmdValueThreads / 32];
  const int64_t count = p.B / values;
  for (int64_t v = blockIdx.x; v < values; v += gridDim.x) {
    double sum = 0;
    for (int64_t k = threadIdx.x; k < count; k += kEmdValueThreads) {
      emd_tell(p, v * count + k);
      sum += emd_of_cloud(p, v * count + k);
    }
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) warp_sums[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
      for (int w = 1; w < kEmdValueThreads / 32; ++w) sum += warp_sums[w];
      p.value[v] = static_cast<T>(sum);
    }
    __syncthreads();  // warp_sums have been read
  }
}

template <class T>
__global__ void __launch_bounds__(kEmdValueThreads) emd_points_kernel(const EmdValue<T> p) {
  for (int64_t b = blockIdx.x; b < p.B; b += gridDim.x) {
    if (threadIdx.x == 0) emd_tell(p, b);
    for (int64_t i = threadIdx.x; i < p.N; i += kEmdValueThreads) emd_of_point(p, b, i);
  }
}

// Enqueues the value on `stream`: no allocation, no synchronisation, capturable in a graph.
// `dims`: of the value.
template <class T>
cudaError_t launch_emd(const EmdValue<T>& p, int64_t dims, cudaStream_t stream) {
  const int64_t values = dims == 0 ? 1 : p.B;
  if (values == 0) return cudaSuccess;
  const LaunchShape shape{dim3(grid_size(values)), kEmdValueThreads};
  return dims == 2 ? launch(&emd_points_kernel<T>, shape, stream, p)
                   : launch(&emd_value_kernel<T>, shape, stream, p, values);
}

}  // namespace pointloss
