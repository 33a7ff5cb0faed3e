// SPDX-License-Identifier: MIT
// Nearest neighbours by brute force: each row of x against all of y, exact.
//
// Method: kLanes running minima over interleaved columns, so that the inner loop vectorises with no
// branch; the lanes are merged by (distance, index), so the lowest index wins a tie.
// Cost: N * M distances; nothing is allocated. y comes transposed, [D, M], for unit-stride loads.
#pragma once

#include <limits>
#include <type_traits>

#include "../common/distance.h"

namespace pointloss {

// Two AVX2 registers of float, four of double: enough independent minima to hide the latency.
constexpr int64_t kLanes = 32;

template <int kNorm, int kDim, class T>
POINTLOSS_HD void nearest_row(const T* query, const T* y_t, int64_t stride, int64_t m, int64_t dim,
                              T* dist, int64_t* idx) {
  constexpr T kInf = std::numeric_limits<T>::infinity();
  // The index of a lane's best block has the width of T, so that both fill equal registers.
  using Block = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  T best[kLanes];
  Block best_block[kLanes];
  for (int64_t lane = 0; lane < kLanes; ++lane) best[lane] = kInf, best_block[lane] = -1;
  const int64_t blocks = m / kLanes;
  for (int64_t block = 0; block < blocks; ++block) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const T d = distance<kNorm, kDim>(query, y_t + block * kLanes + lane, stride, dim);
      const bool closer = d < best[lane];  // false for NaN
      best[lane] = closer ? d : best[lane];
      best_block[lane] = closer ? static_cast<Block>(block) : best_block[lane];
    }
  }
  *dist = kInf;
  *idx = -1;
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    if (best_block[lane] < 0) continue;
    const int64_t j = best_block[lane] * kLanes + lane;
    if (best[lane] < *dist || (best[lane] == *dist && j < *idx)) *dist = best[lane], *idx = j;
  }
  for (int64_t j = blocks * kLanes; j < m; ++j) {
    const T d = distance<kNorm, kDim>(query, y_t + j, stride, dim);
    if (d < *dist) *dist = d, *idx = j;
  }
}

// Rows [begin, end) of one cloud; x [N, D], y_t [D, stride] of which the first m columns count.
template <int kNorm, int kDim, class T>
POINTLOSS_HD void nearest_rows(const T* x, int64_t begin, int64_t end, const T* y_t, int64_t stride,
                               int64_t m, int64_t dim, T* dist, int64_t* idx) {
  const int64_t dims = kDim > 0 ? kDim : dim;
  for (int64_t i = begin; i < end; ++i) {
    const T* query = x + i * dims;
    if (has_nan(query, dims)) {
      dist[i] = std::numeric_limits<T>::quiet_NaN();
      idx[i] = -1;
    } else {
      nearest_row<kNorm, kDim>(query, y_t, stride, m, dim, dist + i, idx + i);
    }
  }
}

#ifdef POINTLOSS_HAS_AVX2_VARIANT
template <int kNorm, int kDim, class T>
POINTLOSS_AVX2 void nearest_rows_avx2(const T* x, int64_t begin, int64_t end, const T* y_t,
                                      int64_t stride, int64_t m, int64_t dim, T* dist,
                                      int64_t* idx) {
  nearest_rows<kNorm, kDim>(x, begin, end, y_t, stride, m, dim, dist, idx);
}
#endif

template <int kNorm, int kDim, class T>
void nearest_rows_dispatch(const T* x, int64_t begin, int64_t end, const T* y_t, int64_t stride,
                           int64_t m, int64_t dim, T* dist, int64_t* idx) {
#ifdef POINTLOSS_HAS_AVX2_VARIANT
  if (cpu_has_avx2()) {
    nearest_rows_avx2<kNorm, kDim>(x, begin, end, y_t, stride, m, dim, dist, idx);
    return;
  }
#endif
  nearest_rows<kNorm, kDim>(x, begin, end, y_t, stride, m, dim, dist, idx);
}

}  // namespace pointloss
