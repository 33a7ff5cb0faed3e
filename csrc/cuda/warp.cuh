// SPDX-License-Identifier: MIT
// What all kernels that work by warps say alike.
#pragma once

namespace pointloss {

constexpr unsigned kWholeWarp = 0xffffffffu;

// How many lanes of `mask` come before this one.
__device__ __forceinline__ int rank_in(unsigned mask) {
  return __popc(mask & ((1u << threadIdx.x % 32) - 1));
}

}  // namespace pointloss
