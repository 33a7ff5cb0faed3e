// SPDX-License-Identifier: MIT
// The thread blocks that solve one cloud together: a thread block cluster, or a single block.
//
// Every block holds a copy of the prices. The blocks meet at barriers, exchange sums through global
// memory, and write bids into one another's shared memory.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "instructions.cuh"
#include "tuning.cuh"

namespace pointloss {

// What the blocks of a cluster exchange in global memory.
struct ClusterExchange {
  unsigned long long values[kMaxCluster];  // sum of the best values that a block found
  int next;                                // first bidder of the queue that has not begun to bid
  int unassigned;                          // bidders without an object
  int longest;                             // most bids of a warp
  int overflow;
  int64_t rounds;
};

// Loads what another block may have written to global memory, past this block's own L1.
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

struct Cluster {
  int rank = 0, size = 1;  // of this block; blocks

  __device__ __forceinline__ static Cluster here() { return {cluster_rank(), cluster_size()}; }

  // Barrier of all threads of the cluster; global and shared writes before it are seen after it.
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

  // Atomic maximum with `value` on *own of every block, by the lanes of one warp. With more than
  // one block all use the same kind of instruction: local and remote atomics are not atomic to each
  // other.
  __device__ __forceinline__ void atomic_max(int* own, int value) const {
    const int lane = threadIdx.x % 32;
    if (size > 1) {
      if (lane < size) cluster_max(own, lane, value);
    } else if (lane == 0) {
      atomicMax(own, value);
    }
  }
};

}  // namespace pointloss
