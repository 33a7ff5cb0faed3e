// SPDX-License-Identifier: MIT
// Keys along the Hilbert curve on the GPU: the automaton's table, and the grid over a bounding box.
#pragma once

#include <cuda_runtime.h>

#include "../../common/hilbert.h"

namespace pointloss {

// In device memory. Threads of a warp read different words, so constant memory would be slower;
// kernels that make many keys copy it to shared memory first.
static __device__ const HilbertSteps kCurveSteps = kHilbertSteps;

// By a block of at least kHilbertWords threads, without a barrier.
__device__ __forceinline__ void copy_steps(HilbertSteps& to) {
  if (threadIdx.x < kHilbertWords) to.word[threadIdx.x] = kCurveSteps.word[threadIdx.x];
}

// A grid of 2^kBits cells per axis, from the lower corner of a bounding box on.
template <int kBits>
struct BoxGrid {
  float lower[3];
  float scale;  // coordinates to cells, the same for all axes

  __device__ __forceinline__ unsigned key(const HilbertSteps& steps, float x, float y,
                                          float z) const {
    constexpr float kLast = (1 << kBits) - 1;
    const auto cell = [&](int axis, float v) {
      return static_cast<unsigned>(fminf(fmaxf((v - lower[axis]) * scale, 0.0f), kLast));
    };
    return hilbert_key(steps, cell(0, x), cell(1, y), cell(2, z), kBits, kBits);
  }
};

}  // namespace pointloss
