// SPDX-License-Identifier: MIT
// What lets one function compile for the host (plain and AVX2) and for the GPU.
#pragma once

#ifdef __CUDACC__
#define POINTLOSS_HD __host__ __device__ __forceinline__
#else
// always_inline, so that a body takes on the instruction set of the function that it lands in.
#define POINTLOSS_HD inline __attribute__((always_inline))
#endif

// Host loops are compiled twice on x86-64, the second time for this target, and chosen at run time.
#if defined(__x86_64__) && !defined(__CUDA_ARCH__)
#define POINTLOSS_HAS_AVX2_VARIANT 1
#define POINTLOSS_AVX2 __attribute__((target("avx2,fma")))
namespace pointloss {
inline bool cpu_has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
}  // namespace pointloss
#endif
