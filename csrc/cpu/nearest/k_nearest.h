// SPDX-License-Identifier: MIT
// The k nearest neighbours by brute force (brute_force.h) and by a tree (tree_search.h), exact.
//
// Method: the list of a query is its row of the answer, sorted, into which points are inserted.
// Distances are compared kWidth at once with the last of the list, as most points are too far, and
// only those that come below it one by one. The list holds the least pairs (distance, index), so
// that neither the order of the points nor the method matters, and ties go to the lowest index.
// Cost: beside the distances, about k (1 + ln(m / k)) insertions a query for points in random
// order, each of up to k moves.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "brute_force.h"
#include "tree_search.h"

namespace pointloss {

// The row [k] of one query; inf, with index -1, where there is none yet.
template <class T>
struct SortedRow {
  T* dist;
  int64_t* idx;
  int64_t k;

  POINTLOSS_HD void clear() const {
    for (int64_t place = 0; place < k; ++place) {
      dist[place] = std::numeric_limits<T>::infinity(), idx[place] = -1;
    }
  }
  POINTLOSS_HD T worst() const { return dist[k - 1]; }

  // No index comes below the -1 of an empty place, so nothing at distance inf enters.
  POINTLOSS_HD void offer(T d, int64_t i) const {
    int64_t place = k - 1;
    if (!(d < dist[place] || (d == dist[place] && i < idx[place]))) return;
    for (; place > 0; --place) {
      const T before = dist[place - 1];
      if (before < d || (before == d && idx[place - 1] < i)) break;
      dist[place] = before, idx[place] = idx[place - 1];
    }
    dist[place] = d, idx[place] = i;
  }
};

template <int kNorm, int kDim, class T>
class KPacketSearch : PacketWalk<KPacketSearch<kNorm, kDim, T>, kNorm, kDim, T> {
  using Walk = PacketWalk<KPacketSearch, kNorm, kDim, T>;
  using typename Walk::Index, typename Walk::Real;
  using Walk::W, Walk::best_, Walk::ids_, Walk::query_, Walk::tree_, Walk::worst_;
  friend Walk;

 public:
  POINTLOSS_HD KPacketSearch(const TreeView<T>& queries, int64_t packet, const TreeView<T>& tree)
      : Walk(queries, packet, tree) {}

  POINTLOSS_HD void run(T* dist, int64_t* idx, int64_t k) {
    for (int64_t lane = 0; lane < W; ++lane) {
      const int64_t at = ids_[lane] < 0 ? 0 : ids_[lane] * k;  // a lane without a query takes none
      rows_[lane] = {dist + at, idx + at, k};
      if (ids_[lane] >= 0) rows_[lane].clear();
    }
    // Leaves of twice k points around the packet bound most answers tightly. Whole pieces of the
    // tree, as it halves ranges, where there are as many.
    int64_t count = 1;
    while (count * W < 2 * k) count *= 2;
    count = std::min(count, tree_.leaves);
    const int64_t first = std::min(this->descend() / count * count, tree_.leaves - count);
    for (int64_t leaf = first; leaf < first + count; ++leaf) scan(leaf);
    this->walk(first, first + count);
  }

 private:
  POINTLOSS_HD void scan(int64_t leaf) {
    const T* points = tree_.points + leaf * kDim * W;
    const Index* ids = tree_.ids + leaf * W;
    for (int64_t point = 0; point < W; ++point) {
      Real d{};
      for (int64_t k = 0; k < kDim; ++k) {
        d = add_axis<kNorm, T>(k, query_[k] - points[k * W + point], d);
      }
      uint32_t nearer = lane_bits<T>(d <= best_);  // false for NaN
      if (nearer == 0) continue;
      T value[W], best[W];
      __builtin_memcpy(value, &d, sizeof d);
      __builtin_memcpy(best, &best_, sizeof best_);
      for (; nearer != 0; nearer &= nearer - 1) {
        const int64_t lane = __builtin_ctz(nearer);
        rows_[lane].offer(value[lane], ids[point]);
        best[lane] = std::min(rows_[lane].worst(), std::numeric_limits<T>::max());
      }
      best_ = load_lanes<Real>(best);
      worst_ = broadcast<T>(largest_lane<T>(best_));
    }
  }

  SortedRow<T> rows_[W];
};

// At most kBlockRows rows x [rows, dim] against all panels; dist and idx are [rows, k].
template <int kNorm, class T>
POINTLOSS_HD void k_nearest_block(const T* x, int64_t rows, const T* panels, int64_t count,
                                  int64_t dim, T* dist, int64_t* idx, int64_t k) {
  const int64_t size = dim * kPanelColumns<T>;
  const int64_t together = std::max<int64_t>(1, kBlockBytes / (size * sizeof(T)));
  for (int64_t i = 0; i < rows; ++i) SortedRow<T>{dist + i * k, idx + i * k, k}.clear();
  for (int64_t first = 0; first < count; first += together) {
    const int64_t last = std::min(count, first + together);
    for (int64_t i = 0; i < rows; i += kTileRows) {
      const T* tile[kTileRows];  // where rows are missing, the last one again
      for (int64_t r = 0; r < kTileRows; ++r) tile[r] = x + std::min(i + r, rows - 1) * dim;
      for (int64_t p = first; p < last; ++p) {
        RealLanes<T> d[kTileRows][kTileVectors];
        tile_distances<kNorm>(tile, panels + p * size, dim, d);
        for (int64_t r = 0; r < kTileRows && i + r < rows; ++r) {
          const SortedRow<T> row{dist + (i + r) * k, idx + (i + r) * k, k};
          for (int64_t v = 0; v < kTileVectors; ++v) {
            uint32_t nearer = lane_bits<T>(d[r][v] < broadcast<T>(row.worst()));  // false for NaN
            for (; nearer != 0; nearer &= nearer - 1) {
              const int64_t lane = __builtin_ctz(nearer);
              row.offer(d[r][v][lane], p * kPanelColumns<T> + v * kWidth<T> + lane);
            }
          }
        }
      }
    }
  }
  for (int64_t i = 0; i < rows; ++i) {  // the list of a NaN row is empty: only its distances change
    if (has_nan(x + i * dim, dim)) {
      std::fill(dist + i * k, dist + (i + 1) * k, std::numeric_limits<T>::quiet_NaN());
    }
  }
}

// Rows [begin, end) of a cloud x [., dim]; dist and idx are of the whole cloud.
template <int kNorm, class T>
POINTLOSS_HD void k_nearest_rows(const T* x, int64_t begin, int64_t end, const T* panels,
                                 int64_t count, int64_t dim, T* dist, int64_t* idx, int64_t k) {
  for (int64_t i = begin; i < end; i += kBlockRows) {
    k_nearest_block<kNorm>(x + i * dim, std::min(kBlockRows, end - i), panels, count, dim,
                           dist + i * k, idx + i * k, k);
  }
}

#ifdef POINTLOSS_HAS_AVX2_VARIANT
template <int kNorm, class T>
POINTLOSS_AVX2 void k_nearest_rows_avx2(const T* x, int64_t begin, int64_t end, const T* panels,
                                        int64_t count, int64_t dim, T* dist, int64_t* idx,
                                        int64_t k) {
  k_nearest_rows<kNorm>(x, begin, end, panels, count, dim, dist, idx, k);
}
#endif

template <int kNorm, class T>
void k_nearest_rows_dispatch(const T* x, int64_t begin, int64_t end, const T* panels, int64_t count,
                             int64_t dim, T* dist, int64_t* idx, int64_t k) {
#ifdef POINTLOSS_HAS_AVX2_VARIANT
  if (cpu_has_avx2()) {
    k_nearest_rows_avx2<kNorm>(x, begin, end, panels, count, dim, dist, idx, k);
    return;
  }
#endif
  k_nearest_rows<kNorm>(x, begin, end, panels, count, dim, dist, idx, k);
}

}  // namespace pointloss
