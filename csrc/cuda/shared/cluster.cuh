// SPDX-License-Identifier: MIT
// The blocks of a cluster: which one this is, their barrier, their shared memory.
// tests/emulator/cluster.cuh replaces this file when kernels run on a CPU.
#pragma once

#include <cuda_runtime.h>

namespace pointloss {

// Of this block in its cluster; there are clusters from compute capability 9.0 on.
__device__ __forceinline__ int cluster_rank() {
  int rank = 0;
#if __CUDA_ARCH__ >= 900
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
#endif
  return rank;
}
__device__ __forceinline__ int cluster_size() {
  int size = 1;
#if __CUDA_ARCH__ >= 900
  asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
#endif
  return size;
}

// Barrier of all threads of the cluster.
__device__ __forceinline__ void cluster_barrier() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}

// Barrier of all threads of `blocks` blocks, which run at once; `first`: this is the first of them.
// *arrived, in global memory, is 0 before the first meeting. As the grid's in cooperative groups:
// every meeting turns the highest bit over and leaves the others 0.
__device__ __forceinline__ void team_barrier(unsigned* arrived, int blocks, bool first) {
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    const unsigned turn = 0x80000000u;
    const unsigned before =
        atomicAdd(arrived, first ? turn - static_cast<unsigned>(blocks - 1) : 1u);
    while (((before ^ *static_cast<volatile unsigned*>(arrived)) & turn) == 0) {
    }
    __threadfence();
  }
  __syncthreads();
}

// What `own`, in this block's shared memory, is in that of the block `rank`.
template <class T>
__device__ __forceinline__ const T* in_block(const T* own, [[maybe_unused]] int rank) {
#if __CUDA_ARCH__ >= 900
  const T* there;
  asm("mapa.u64 %0, %1, %2;" : "=l"(there) : "l"(own), "r"(rank));
  return there;
#else
  return own;
#endif
}

}  // namespace pointloss
