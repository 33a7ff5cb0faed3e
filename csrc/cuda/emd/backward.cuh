// SPDX-License-Identifier: MIT
// Gradient of emd: each point of x and its partner get the slope of their distance.
//
// Map: one thread = one point of x. A partner is nobody else's, so there are no atomics and the
// bits are the same every time; where points of y may be without partner, a memset comes first.
// Cost: O(B (N + M) D) memory traffic, one launch.
#pragma once

#include "../../common/emd.h"
#include "../shared/launch.cuh"

namespace pointloss {

constexpr int kEmdBackwardThreads = 256;

template <class T>
__global__ void __launch_bounds__(kEmdBackwardThreads) emd_backward_kernel(const EmdBackward<T> p) {
  const int64_t chunks = ceil_div(p.N, kEmdBackwardThreads);
  for (int64_t task = blockIdx.x; task < p.B * chunks; task += gridDim.x) {
    const int64_t b = task / chunks;  // once a block: a 64-bit division costs as much as the row
    const int64_t i = (task - b * chunks) * kEmdBackwardThreads + threadIdx.x;
    if (i < p.N) emd_backward_row(p, b, i);
  }
}

// Enqueues the gradient on `stream`: no allocation, no synchronisation, capturable in a graph.
template <class T>
cudaError_t launch_emd_backward(const EmdBackward<T>& p, cudaStream_t stream) {
  if (p.grad_y != nullptr && p.leaves_some()) {
    const cudaError_t error = cudaMemsetAsync(p.grad_y, 0, p.B * p.M * p.D * sizeof(T), stream);
    if (error != cudaSuccess) return error;
  }
  const int64_t blocks = p.B * ceil_div(p.N, kEmdBackwardThreads);
  if (blocks == 0 || (p.grad_x == nullptr && p.grad_y == nullptr)) return cudaSuccess;
  return launch(&emd_backward_kernel<T>, {grid_size(blocks), kEmdBackwardThreads}, stream, p);
}

}  // namespace pointloss
