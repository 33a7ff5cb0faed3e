// SPDX-License-Identifier: MIT
// The thread blocks that solve one cloud together: a cluster or a team.
//
// Of a cluster, which may be a single block, every block holds a copy of the prices in its shared
// memory. The blocks meet at barriers, exchange sums through global memory, and write bids into one
// another's shared memory.
// A team has one copy in global memory, for clouds that do not fit shared memory. It works as one
// large block would: its threads are numbered through, and its barrier is that of all.
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
  int rows, floor, cutoff, quantum;  // of a round of paths that all blocks share, or no rows
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

  // Of the threads that share a copy of the arrays, which are those of a block.
  __device__ __forceinline__ static int thread() { return static_cast<int>(threadIdx.x); }
  __host__ __device__ static constexpr int threads() { return kIntegerThreads; }
  __device__ __forceinline__ static void sync_copy() { __syncthreads(); }
  __device__ __forceinline__ static int count(bool mine) { return __syncthreads_count(mine); }

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

// Where the blocks of a team meet, in global memory; 0 at first.
struct TeamMeeting {
  unsigned arrived;
  int sum;
};

struct Team {
  static constexpr int rank = 0, size = 1;  // of the copy of the arrays; copies
  int block, blocks;
  TeamMeeting* meeting;

  __device__ __forceinline__ int thread() const {
    return block * kIntegerThreads + static_cast<int>(threadIdx.x);
  }
  __device__ __forceinline__ int threads() const { return blocks * kIntegerThreads; }
  __device__ __forceinline__ void sync() const {
    team_barrier(&meeting->arrived, blocks, block == 0);
  }
  __device__ __forceinline__ void sync_copy() const { sync(); }
  __device__ __forceinline__ int count(bool mine) const {
    const int own = __syncthreads_count(mine);
    if (threadIdx.x == 0 && own != 0) atomicAdd(&meeting->sum, own);
    sync();
    const int all = load_fresh(&meeting->sum);
    sync();
    if (thread() == 0) meeting->sum = 0;
    sync();  // before anyone adds to the next
    return all;
  }
  __device__ __forceinline__ void atomic_max(int* shared, int value) const {
    if (threadIdx.x % 32 == 0) atomicMax(shared, value);
  }
};

}  // namespace pointloss
