// SPDX-License-Identifier: MIT
// What both assignment solvers are asked: a batch of pairs of clouds, as plain pointers.
#pragma once

#include <cstdint>

namespace pointloss {

// A batch of pairs of clouds, but for coordinates and results; every pointer is a contiguous array,
// on one device. N and M stay below 2^31.
struct AssignSettings {
  const int64_t* x_lengths;  // [B] or null (all N); any value is safe
  const int64_t* y_lengths;  // [B] or null (all M)
  int64_t B, N, M, D;
  bool squared, deterministic;
  double rtol;
  int64_t max_rounds;      // <= 0: default bound
  const double* price_in;  // [B, max(N, M)] warm start, any values; or null
  const int64_t* idx_in;   // [B, N] matching of those prices, any values; or null
};

template <typename T>
struct AssignBatch : AssignSettings {
  const T* x;       // [B, N, D]
  const T* y;       // [B, M, D]
  int64_t* idx;     // [B, N]
  double* price;    // [B, max(N, M)]
  double* cost;     // [B]
  double* gap;      // [B]
  int64_t* rounds;  // [B]
  bool* converged;  // [B]
};

}  // namespace pointloss
