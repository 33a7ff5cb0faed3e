// SPDX-License-Identifier: MIT
// In place of csrc/cuda/shared/launch.cuh.
#pragma once

#include <cuda_runtime.h>

using cudaStream_t = void*;
using cudaError_t = int;
constexpr cudaError_t cudaSuccess = 0, cudaErrorInvalidValue = 1;

namespace pointloss {

inline void let_next_kernel_start() {}
inline void wait_for_previous_kernel() {}
inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline unsigned grid_size(int64_t tasks) { return static_cast<unsigned>(tasks); }

struct LaunchShape {
  unsigned grid;
  int threads;
};

// One block after the other.
struct KernelChain {
  explicit KernelChain(cudaStream_t) {}

  template <class... Params, class... Args>
  void add(void (*kernel)(Params...), const LaunchShape& shape, const Args&... args) {
    gridDim.x = shape.grid;
    for (blockIdx.x = 0; blockIdx.x < shape.grid; ++blockIdx.x) {
      emulated::launch(1, shape.threads, [&] { kernel(args...); });
    }
  }
  cudaError_t error() const { return cudaSuccess; }
};

}  // namespace pointloss
