// SPDX-License-Identifier: MIT
// Nearest neighbours by brute force: each row of x against all of y, exact.
//
// Method: tiles of kTileRows rows of x by one panel of y, whose distances stay in registers while
// the axes are gone through (the micro-kernel of a matrix product: Goto and van de Geijn 2008, with
// a difference and a fused multiply-add in place of the product). The lanes are columns of y, so a
// distance is summed axis by axis as distance() does, to the same bits. Each lane of a row keeps
// its running minimum; the lanes are merged by (distance, index) at the end, so the lowest index
// wins a tie.
// Cost: N * M * D differences and as many additions. y is copied once, panel by panel.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "../../common/distance.h"
#include "lanes.h"

namespace pointloss {

// Eight sums, two loads of y and a broadcast fill most of the 16 registers of AVX2.
constexpr int64_t kTileRows = 4, kTileVectors = 2;
template <class T>
constexpr int64_t kPanelColumns = kTileVectors * kWidth<T>;

// Rows and panels that are compared before others are: rows whose minima stay in the first-level
// cache, panels that stay in the second.
constexpr int64_t kBlockRows = 64, kBlockBytes = 1 << 18;

template <class T>
constexpr int64_t panel_count(int64_t m) {
  return (m + kPanelColumns<T> - 1) / kPanelColumns<T>;
}

// Panels [begin, end) of a cloud y [m, dim], each [dim, kPanelColumns]. Behind the last point they
// hold NaN, which is nobody's neighbour.
template <class T>
void pack_panels(const T* y, int64_t m, int64_t dim, int64_t begin, int64_t end, T* panels) {
  constexpr int64_t C = kPanelColumns<T>;
  for (int64_t p = begin; p < end; ++p) {
    T* panel = panels + p * dim * C;
    const int64_t count = std::min(C, m - p * C);
    for (int64_t c = 0; c < C; ++c) {
      for (int64_t k = 0; k < dim; ++k) {
        panel[k * C + c] =
            c < count ? y[(p * C + c) * dim + k] : std::numeric_limits<T>::quiet_NaN();
      }
    }
  }
}

// The minima of one row: of each lane the distance and the panel where it was found first.
template <class T>
struct RowMinima {
  RealLanes<T> best[kTileVectors];
  IntLanes<T> panel[kTileVectors];

  POINTLOSS_HD void clear() {
#pragma GCC unroll 4
    for (int64_t v = 0; v < kTileVectors; ++v) {
      best[v] = broadcast<T>(std::numeric_limits<T>::infinity());
      panel[v] = IntLanes<T>{} - 1;
    }
  }

  POINTLOSS_HD void take(const RealLanes<T>* d, int64_t p) {
    IntLanes<T> closer[kTileVectors], any{};
#pragma GCC unroll 4
    for (int64_t v = 0; v < kTileVectors; ++v) {
      closer[v] = d[v] < best[v];  // false for NaN
      any |= closer[v];
    }
    if (lane_bits<T>(any) == 0) return;
#pragma GCC unroll 4
    for (int64_t v = 0; v < kTileVectors; ++v) {
      best[v] = closer[v] ? d[v] : best[v];
      panel[v] = closer[v] ? IntLanes<T>{} + static_cast<TreeIndex<T>>(p) : panel[v];
    }
  }

  POINTLOSS_HD void answer(T* dist, int64_t* idx) const {
    *dist = std::numeric_limits<T>::infinity();
    *idx = -1;
#pragma GCC unroll 4
    for (int64_t v = 0; v < kTileVectors; ++v) {
      for (int64_t lane = 0; lane < kWidth<T>; ++lane) {
        if (panel[v][lane] < 0) continue;
        const int64_t j = panel[v][lane] * kPanelColumns<T> + v * kWidth<T> + lane;
        const T d = best[v][lane];
        if (d < *dist || (d == *dist && j < *idx)) *dist = d, *idx = j;
      }
    }
  }
};

// Distances of kTileRows rows to the columns of a panel.
template <int kNorm, class T>
POINTLOSS_HD void tile_distances(const T* const* rows, const T* panel, int64_t dim,
                                 RealLanes<T> (*d)[kTileVectors]) {
#pragma GCC unroll 4
  for (int64_t r = 0; r < kTileRows; ++r) {
#pragma GCC unroll 4
    for (int64_t v = 0; v < kTileVectors; ++v) d[r][v] = RealLanes<T>{};
  }
  for (int64_t k = 0; k < dim; ++k) {
    RealLanes<T> column[kTileVectors];
#pragma GCC unroll 4
    for (int64_t v = 0; v < kTileVectors; ++v) {
      column[v] = load_lanes<RealLanes<T>>(panel + (k * kTileVectors + v) * kWidth<T>);
    }
#pragma GCC unroll 4
    for (int64_t r = 0; r < kTileRows; ++r) {
      const T at = rows[r][k];  // gcc broadcasts an operand of vector arithmetic in one instruction
      // The first axis is added to 0, which gives the bits of distance(), too.
#pragma GCC unroll 4
      for (int64_t v = 0; v < kTileVectors; ++v) {
        d[r][v] = add_axis<kNorm, T>(1, at - column[v], d[r][v]);
      }
    }
  }
}

// At most kBlockRows rows x [rows, dim] against all panels.
template <int kNorm, class T>
POINTLOSS_HD void nearest_block(const T* x, int64_t rows, const T* panels, int64_t count,
                                int64_t dim, T* dist, int64_t* idx) {
  const int64_t size = dim * kPanelColumns<T>;
  const int64_t together = std::max<int64_t>(1, kBlockBytes / (size * sizeof(T)));
  RowMinima<T> minima[kBlockRows + kTileRows];
  for (int64_t i = 0; i < kBlockRows + kTileRows; ++i) minima[i].clear();
  for (int64_t first = 0; first < count; first += together) {
    const int64_t last = std::min(count, first + together);
    for (int64_t i = 0; i < rows; i += kTileRows) {
      const T* tile[kTileRows];  // where rows are missing, the last one again
#pragma GCC unroll 4
      for (int64_t r = 0; r < kTileRows; ++r) tile[r] = x + std::min(i + r, rows - 1) * dim;
      for (int64_t p = first; p < last; ++p) {
        RealLanes<T> d[kTileRows][kTileVectors];
        tile_distances<kNorm>(tile, panels + p * size, dim, d);
#pragma GCC unroll 4
        for (int64_t r = 0; r < kTileRows; ++r) minima[i + r].take(d[r], p);
      }
    }
  }
  for (int64_t i = 0; i < rows; ++i) {
    minima[i].answer(dist + i, idx + i);
    if (has_nan(x + i * dim, dim)) dist[i] = std::numeric_limits<T>::quiet_NaN();
  }
}

// Rows [begin, end) of a cloud x [., dim]; dist and idx are of the whole cloud.
template <int kNorm, class T>
POINTLOSS_HD void nearest_rows(const T* x, int64_t begin, int64_t end, const T* panels,
                               int64_t count, int64_t dim, T* dist, int64_t* idx) {
  for (int64_t i = begin; i < end; i += kBlockRows) {
    nearest_block<kNorm>(x + i * dim, std::min(kBlockRows, end - i), panels, count, dim, dist + i,
                         idx + i);
  }
}

#ifdef POINTLOSS_HAS_AVX2_VARIANT
template <int kNorm, class T>
POINTLOSS_AVX2 void nearest_rows_avx2(const T* x, int64_t begin, int64_t end, const T* panels,
                                      int64_t count, int64_t dim, T* dist, int64_t* idx) {
  nearest_rows<kNorm>(x, begin, end, panels, count, dim, dist, idx);
}
#endif

template <int kNorm, class T>
void nearest_rows_dispatch(const T* x, int64_t begin, int64_t end, const T* panels, int64_t count,
                           int64_t dim, T* dist, int64_t* idx) {
#ifdef POINTLOSS_HAS_AVX2_VARIANT
  if (cpu_has_avx2()) {
    nearest_rows_avx2<kNorm>(x, begin, end, panels, count, dim, dist, idx);
    return;
  }
#endif
  nearest_rows<kNorm>(x, begin, end, panels, count, dim, dist, idx);
}

}  // namespace pointloss
