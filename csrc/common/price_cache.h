// SPDX-License-Identifier: MIT
// Rows of the cache in which EMDLoss keeps its samples' prices and matchings. Torch-free.
#pragma once

#include <cmath>
#include <cstdint>

#include "macros.h"

namespace pointloss {

// Which rows of a cache [samples, room] belong to a batch; every array is contiguous.
struct PriceCacheRows {
  const int64_t* ids;     // [B]
  int64_t B, N, points;   // of the batch: clouds, points of x, points of the larger cloud
  int64_t samples, room;  // of the cache

  // The row of cloud b, or -1 for an id out of range.
  POINTLOSS_HD int64_t row(int64_t b) const {
    return ids[b] < samples && ids[b] >= 0 ? ids[b] : -1;
  }
};

struct PriceCacheRead : PriceCacheRows {
  const float* kept_price;  // [samples, room]
  const int32_t* kept_idx;  // [samples, room]
  double* price;            // [B, points]
  int64_t* idx;             // [B, N]
};

// Column k of cloud b. What is in no row starts like an empty cache.
POINTLOSS_HD void price_cache_read(const PriceCacheRead& p, int64_t b, int64_t k) {
  const int64_t row = p.row(b), at = row * p.room + k;
  p.price[b * p.points + k] = row < 0 ? 0.0 : static_cast<double>(p.kept_price[at]);
  if (k < p.N) p.idx[b * p.N + k] = row < 0 ? -1 : p.kept_idx[at];
}

struct PriceCacheWrite : PriceCacheRows {
  float* kept_price;    // [samples, room]
  int32_t* kept_idx;    // [samples, room]
  int64_t* age;         // [samples], calls since a row was written
  const double* price;  // [B, points]
  const int64_t* idx;   // [B, N]
  const double* cost;   // [B]
  double* judged;       // [B], cost, and NaN for an id out of range
};

// Column k of cloud b, whose row no later cloud of the batch has.
POINTLOSS_HD void price_cache_write(const PriceCacheWrite& p, int64_t b, int64_t k) {
  const int64_t at = p.row(b) * p.room + k;
  p.kept_price[at] = static_cast<float>(p.price[b * p.points + k]);
  if (k < p.N) p.kept_idx[at] = static_cast<int32_t>(p.idx[b * p.N + k]);
}

}  // namespace pointloss
