// SPDX-License-Identifier: MIT
// What the two tree searches (small/search.cuh, tree/search.cuh) take, and a cloud of it.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "../../common/distance.h"

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

// One of the 2 B clouds of a batch, first all x, then all y, as the caller gave it.
struct CloudRows {
  const float* points;
  float* dist;
  int64_t* idx;
  int64_t size, valid;  // valid is -1 if a length of the pair is out of range
};

__device__ __forceinline__ CloudRows cloud_rows(const NearestPairParams& p, int64_t cloud) {
  const bool is_x = cloud < p.B;
  const int64_t b = is_x ? cloud : cloud - p.B;
  const int64_t n = valid_length(p.x_lengths, b, p.N), m = valid_length(p.y_lengths, b, p.M);
  CloudRows rows;
  rows.size = is_x ? p.N : p.M;
  rows.points = (is_x ? p.x : p.y) + 3 * b * rows.size;
  rows.dist = is_x ? p.dist_x + b * p.N : p.dist_y == nullptr ? nullptr : p.dist_y + b * p.M;
  rows.idx = is_x ? p.idx_x + b * p.N : p.dist_y == nullptr ? nullptr : p.idx_y + b * p.M;
  rows.valid = n < 0 || m < 0 ? -1 : is_x ? n : m;
  return rows;
}

constexpr unsigned kNone = 0xffffffffu;  // in place of a cell, or of a cell and a rank

}  // namespace pointloss
