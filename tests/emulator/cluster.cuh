// SPDX-License-Identifier: MIT
// In place of csrc/cuda/cluster.cuh.
#pragma once

#include <cuda_runtime.h>

namespace emulated {

// Each block's shared memory, in the same pieces; those of all blocks are known before a launch.
struct Piece {
  char* begin;
  size_t bytes;
};
inline std::vector<std::vector<Piece>> shared;  // by block

// What `own`, in the shared memory of this block, is in that of the block `rank`.
template <class T>
T* remote(T* own, int rank) {
  const auto address = reinterpret_cast<uintptr_t>(own);
  for (size_t k = 0; k < shared[block()].size(); ++k) {
    const Piece& piece = shared[block()][k];
    const size_t offset = address - reinterpret_cast<uintptr_t>(piece.begin);
    if (offset < piece.bytes) return reinterpret_cast<T*>(shared[rank][k].begin + offset);
  }
  fail("not in shared memory");
}

}  // namespace emulated

namespace pointloss {

inline int cluster_rank() { return emulated::block(); }
inline int cluster_size() { return emulated::grid.blocks; }
inline void cluster_barrier(int site = __builtin_LINE()) { emulated::grid_barrier(site); }
inline void team_barrier(unsigned*, int, bool, int site = __builtin_LINE()) {
  emulated::grid_barrier(site);
}
template <class T>
const T* in_block(const T* own, int rank) {
  return emulated::remote(own, rank);
}

}  // namespace pointloss
