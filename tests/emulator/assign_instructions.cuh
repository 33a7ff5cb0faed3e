// SPDX-License-Identifier: MIT
// In place of csrc/cuda/assign/instructions.cuh.
#pragma once

#include <cuda_runtime.h>

#include "../shared/cluster.cuh"

namespace pointloss {

inline float approximate_root_ftz(float a) { return std::sqrt(a); }
inline float approximate_root(float a) { return std::sqrt(a); }
inline int nearest_int(float a) { return a == a ? static_cast<int>(std::lrint(a)) : 0; }
inline void cluster_max(int* own, int rank, int value) {
  atomicMax(emulated::remote(own, rank), value);
}

}  // namespace pointloss
