// SPDX-License-Identifier: MIT
// The blocks that solve one cloud together (see assign_solver.cuh): a cluster, or a single block.
//
// Every block holds a copy of the state. They meet at barriers, exchange results through a board in
// global memory, and raise prices in each other's shared memory while they bid.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "assign_instructions.cuh"

namespace pointloss {

constexpr int kMaxTeam = 8;

// In global memory.
struct TeamBoard {
  unsigned long long values[kMaxTeam], costs[kMaxTeam];  // sums of a pass over the rows, by block
  int head, open, longest, overflow;
  int64_t rounds;
};

// What one block reads of another's global writes must not come from its own L1.
template <class T>
__device__ __forceinline__ T load_fresh(const T* from) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "one load");
  union {
    T value;
    unsigned half;
    unsigned long long whole;
  } word;
  if (sizeof(T) == 4) {
    word.half = __ldcg(reinterpret_cast<const unsigned*>(from));
  } else {
    word.whole = __ldcg(reinterpret_cast<const unsigned long long*>(from));
  }
  return word.value;
}

struct Team {
  int rank = 0, size = 1;

  __device__ __forceinline__ static Team here() { return {cluster_rank(), cluster_size()}; }

  // Barrier of all threads of the team; global and shared writes before it are seen after it.
  __device__ __forceinline__ void sync() const {
    if (size > 1) {
      __threadfence();
      cluster_barrier();
    } else {
      __syncthreads();
    }
  }

  // Makes this thread's writes so far visible to whoever sees a later one.
  __device__ __forceinline__ void publish() const {
    if (size > 1) {
      __threadfence();
    } else {
      __threadfence_block();
    }
  }

  // Raises *own to `value` in every block, by the lanes of one warp. With more than one block all
  // go by the same kind of instruction: local and remote atomics are not atomic to each other.
  __device__ __forceinline__ void raise(int* own, int value) const {
    const int lane = threadIdx.x % 32;
    if (size > 1) {
      if (lane < size) cluster_max(own, lane, value);
    } else if (lane == 0) {
      atomicMax(own, value);
    }
  }
};

}  // namespace pointloss
