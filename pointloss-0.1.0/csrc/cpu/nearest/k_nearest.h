// SPDX-License-Identifier: MIT
// The k nearest neighbours by brute force (brute_force.h) and by a tree (tree_search.h), exact.
//
// Method: a query keeps a sorted list of what it has found. Distances are compared kWidth at once
// with the last of the list, as most points are too far, and those that come below it are inserted
// one by one, kWidth places of the list at once and without a branch. The list holds the least
// pairs (distance, index), so that neither the order of the points nor the method matters, and ties
// go to the lowest index.
// Cost: beside the distances, about k (1 + ln(m / k)) insertions a query for points in random
// order, each of k / kWidth steps.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "brute_force.h"
#include "tree_search.h"

namespace pointloss {

constexpr int64_t kMostPlaces = 64;

// Whole registers that hold k places.
template <class T>
constexpr int64_t place_registers(int64_t k) {
  return (k + kWidth<T> - 1) / kWidth<T>;
}

// Words of the lists of a query, and where their first place is: before it there is one that comes
// before all points.
template <class T>
constexpr int64_t list_words(int64_t k) {
  return (place_registers<T>(k) + 1) * kWidth<T>;
}

// The list of one query in arrays of list_words(k); inf, with index -1, where there is none yet.
// Places behind k fill up its last register.
template <class T>
struct SortedList {
  using Real = RealLanes<T>;
  using Int = IntLanes<T>;
  using Index = TreeIndex<T>;
  static constexpr int64_t W = kWidth<T>;

  T* dist;
  Index* id;
  int64_t k;

  POINTLOSS_HD void clear() const {
    for (int64_t word = 0; word < list_words<T>(k); ++word) {
      dist[word] = (word < W ? -1 : 1) * std::numeric_limits<T>::infinity(), id[word] = -1;
    }
  }
  POINTLOSS_HD T worst() const { return dist[W + k - 1]; }

  // d is finite; behind the last place it gets lost.
  POINTLOSS_HD void insert(T d, Index i) const {
    const Real new_dist = broadcast<T>(d);
    const Int new_id = Int{} + i;
    const auto store = [](auto* to, const auto& lanes) __attribute__((always_inline)) {
      __builtin_memcpy(to, &lanes, sizeof lanes);
    };
    for (int64_t at = place_registers<T>(k) * W; at > 0; at -= W) {
      const Real own = load_lanes<Real>(dist + at), before = load_lanes<Real>(dist + at - 1);
      const Int own_id = load_lanes<Int>(id + at), before_id = load_lanes<Int>(id + at - 1);
      const Int behind = (own > new_dist) | ((own == new_dist) & (own_id > new_id));
      const Int moves = (before > new_dist) | ((before == new_dist) & (before_id > new_id));
      const Real place = behind ? new_dist : own;
      const Int place_id = behind ? new_id : own_id;
      store(dist + at, moves ? before : place);
      store(id + at, moves ? before_id : place_id);
    }
  }

  // The row [k] of the answer.
  POINTLOSS_HD void store(T* row, int64_t* idx) const {
    for (int64_t place = 0; place < k; ++place) {
      row[place] = dist[W + place], idx[place] = id[W + place];
    }
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
    k_ = k;
    for (int64_t lane = 0; lane < W; ++lane) list(lane).clear();
    // Leaves of twice k points around the packet bound most answers tightly. Whole pieces of the
    // tree, as it halves ranges, where there are as many.
    int64_t count = 1;
    while (count * W < 2 * k) count *= 2;
    count = std::min(count, tree_.leaves);
    const int64_t first = std::min(this->descend() / count * count, tree_.leaves - count);
    for (int64_t leaf = first; leaf < first + count; ++leaf) scan(leaf);
    this->walk(first, first + count);
    for (int64_t lane = 0; lane < W && ids_[lane] >= 0; ++lane) {
      list(lane).store(dist + ids_[lane] * k, idx + ids_[lane] * k);
    }
  }

 private:
  POINTLOSS_HD SortedList<T> list(int64_t lane) { return {dist_[lane], id_[lane], k_}; }

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
        list(lane).insert(value[lane], ids[point]);
        best[lane] = std::min(list(lane).worst(), std::numeric_limits<T>::max());
      }
      best_ = load_lanes<Real>(best);
      worst_ = broadcast<T>(largest_lane<T>(best_));
    }
  }

  int64_t k_;
  T dist_[W][list_words<T>(kMostPlaces)];
  Index id_[W][list_words<T>(kMostPlaces)];
};

// At most kBlockRows rows x [rows, dim] against all panels; dist and idx are [rows, k].
template <int kNorm, class T>
POINTLOSS_HD void k_nearest_block(const T* x, int64_t rows, const T* panels, int64_t count,
                                  int64_t dim, T* dist, int64_t* idx, int64_t k) {
  const int64_t size = dim * kPanelColumns<T>;
  const int64_t together = std::max<int64_t>(1, kBlockBytes / (size * sizeof(T)));
  const int64_t words = list_words<T>(k);
  T list_dist[kBlockRows * list_words<T>(kMostPlaces)];
  TreeIndex<T> list_id[kBlockRows * list_words<T>(kMostPlaces)];
  const auto list = [&](int64_t i) __attribute__((always_inline)) {
    return SortedList<T>{list_dist + i * words, list_id + i * words, k};
  };
  for (int64_t i = 0; i < rows; ++i) list(i).clear();
  for (int64_t first = 0; first < count; first += together) {
    const int64_t last = std::min(count, first + together);
    for (int64_t i = 0; i < rows; i += kTileRows) {
      const T* tile[kTileRows];  // where rows are missing, the last one again
      for (int64_t r = 0; r < kTileRows; ++r) tile[r] = x + std::min(i + r, rows - 1) * dim;
      for (int64_t p = first; p < last; ++p) {
        RealLanes<T> d[kTileRows][kTileVectors];
        tile_distances<kNorm>(tile, panels + p * size, dim, d);
        for (int64_t r = 0; r < kTileRows && i + r < rows; ++r) {
          const SortedList<T> found = list(i + r);
          for (int64_t v = 0; v < kTileVectors; ++v) {
            uint32_t nearer = lane_bits<T>(d[r][v] < broadcast<T>(found.worst()));  // false for NaN
            for (; nearer != 0; nearer &= nearer - 1) {
              const int64_t lane = __builtin_ctz(nearer);
              found.insert(d[r][v][lane], p * kPanelColumns<T> + v * kWidth<T> + lane);
            }
          }
        }
      }
    }
  }
  for (int64_t i = 0; i < rows; ++i) {
    list(i).store(dist + i * k, idx + i * k);
    if (has_nan(x + i * dim, dim)) {  // its list is empty
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
