// SPDX-License-Identifier: MIT
// What the two tree searches for nearest neighbours (nearest_small.cuh, nearest_tree.cuh) take.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace pointloss {

// B pairs of clouds of 3-D points, squared euclidean distance; every pointer is a contiguous device
// array. Rows of x past their length get dist 0, idx -1; a length outside of [0, N] or [0, M] makes
// all rows of that pair NaN, -1; a NaN point gets NaN, -1; no finite distance gives inf, -1.
struct NearestPairParams {
  const float* x;            // [B, N, 3]
  const float* y;            // [B, M, 3]
  const int64_t* x_lengths;  // [B] or null
  const int64_t* y_lengths;  // [B] or null
  float* dist_x;             // [B, N]: of each point of x to its nearest in y
  int64_t* idx_x;            // [B, N]
  float* dist_y;             // [B, M]: of each point of y to its nearest in x; or null
  int64_t* idx_y;            // [B, M]; null together with dist_y
  int64_t B, N, M;
};

}  // namespace pointloss
