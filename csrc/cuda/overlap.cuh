// SPDX-License-Identifier: MIT
// What two kernels say to each other that may overlap (launch.cuh): the first lets the next start,
// the next waits before it touches what the first writes. Devices before compute capability 9
// start it afterwards anyway.
#pragma once

namespace pointloss {

__device__ inline void wait_for_previous_kernel() {
#if __CUDA_ARCH__ >= 900
  cudaGridDependencySynchronize();
#endif
}

__device__ inline void let_next_kernel_start() {
#if __CUDA_ARCH__ >= 900
  cudaTriggerProgrammaticLaunchCompletion();
#endif
}

}  // namespace pointloss
