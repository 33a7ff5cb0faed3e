// SPDX-License-Identifier: MIT
// Single instructions that the assignment solvers rely on. tests/emulator/assign_instructions.cuh
// replaces this file when the solvers run on a CPU.
#pragma once

#include <cuda_runtime.h>

#include "../shared/cluster.cuh"

namespace pointloss {

// Square roots that err by up to two units in the last place; ftz: takes subnormal numbers for 0.
__device__ __forceinline__ float approximate_root_ftz(float a) {
  float r;
  asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(a));
  return r;
}
__device__ __forceinline__ float approximate_root(float a) {
  float r;
  asm("sqrt.approx.f32 %0, %1;" : "=f"(r) : "f"(a));
  return r;
}

// To the nearest integer. NaN gives 0: so the instruction is defined (PTX ISA, cvt).
__device__ __forceinline__ int nearest_int(float a) {
  int r;
  asm("cvt.rni.s32.f32 %0, %1;" : "=r"(r) : "f"(a));
  return r;
}

// Atomic maximum on what `own`, in this block's shared memory, is in that of the block `rank`.
__device__ __forceinline__ void cluster_max(int* own, int rank, int value) {
#if __CUDA_ARCH__ >= 900
  unsigned address;
  asm("mapa.shared::cluster.u32 %0, %1, %2;"
      : "=r"(address)
      : "r"(static_cast<unsigned>(__cvta_generic_to_shared(own))), "r"(rank));
  asm volatile("red.relaxed.cluster.shared::cluster.max.s32 [%0], %1;" ::"r"(address), "r"(value)
               : "memory");
#endif
}

}  // namespace pointloss
