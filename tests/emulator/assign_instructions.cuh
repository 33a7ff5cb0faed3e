// SPDX-License-Identifier: MIT
// In place of csrc/cuda/assign/instructions.cuh.
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
inline int* remote(int* own, int rank) {
  const auto address = reinterpret_cast<uintptr_t>(own);
  for (size_t k = 0; k < shared[block()].size(); ++k) {
    const Piece& piece = shared[block()][k];
    const size_t offset = address - reinterpret_cast<uintptr_t>(piece.begin);
    if (offset < piece.bytes) return reinterpret_cast<int*>(shared[rank][k].begin + offset);
  }
  fail("not in shared memory");
}

}  // namespace emulated

namespace pointloss {

inline float approximate_root_ftz(float a) { return std::sqrt(a); }
inline float approximate_root(float a) { return std::sqrt(a); }
inline int nearest_int(float a) { return a == a ? static_cast<int>(std::lrint(a)) : 0; }
inline int cluster_rank() { return emulated::block(); }
inline int cluster_size() { return emulated::grid.blocks; }
inline void cluster_barrier(int site = __builtin_LINE()) { emulated::grid_barrier(site); }
inline void cluster_max(int* own, int rank, int value) {
  atomicMax(emulated::remote(own, rank), value);
}

}  // namespace pointloss
