// SPDX-License-Identifier: MIT
// Gradient of emd: each point of x and its partner get the slope of their distance.
//
// Map: one block = one cloud; one thread = its points i, i + 1024, ... A partner is nobody else's,
// so there are no atomics and the bits are the same every time; points of y without partner keep
// the 0 that the block writes first. Cost: O(B (N + M) D) memory traffic, one launch.
#pragma once

#include "../../common/emd.h"
#include "../shared/launch.cuh"

namespace pointloss {

constexpr int kEmdBackwardThreads = 1024;

template <class T>
__global__ void __launch_bounds__(kEmdBackwardThreads) emd_backward_kernel(const EmdBackward<T> p) {
  for (int64_t b = blockIdx.x; b < p.B; b += gridDim.x) {
    if (p.grad_y != nullptr) {
      T* grad = p.grad_y + b * p.M * p.D;
      for (int64_t k = threadIdx.x; k < p.M * p.D; k += kEmdBackwardThreads) grad[k] = T(0);
      __syncthreads();
    }
    for (int64_t i = threadIdx.x; i < p.N; i += kEmdBackwardThreads) emd_backward_row(p, b, i);
  }
}

// Enqueues the gradient on `stream`: no allocation, no synchronisation, capturable in a graph.
template <class T>
cudaError_t launch_emd_backward(const EmdBackward<T>& p, cudaStream_t stream) {
  if (p.B == 0 || (p.grad_x == nullptr && p.grad_y == nullptr)) return cudaSuccess;
  return launch(&emd_backward_kernel<T>, {grid_size(p.B), kEmdBackwardThreads}, stream, p);
}

}  // namespace pointloss
