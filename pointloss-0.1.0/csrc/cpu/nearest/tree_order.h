// SPDX-License-Identifier: MIT
// Orders the points of a cloud into the leaves of a balanced k-d tree.
//
// Problem: leaves of kWidth points with small boxes, whatever the cloud: two scales, far outliers
// and duplicates included, which a space-filling curve on a grid cannot tell apart. Method: k-d
// tree (Bentley 1975), split at the widest axis of the exact box of the points, at a multiple of
// the leaf size near the median, so that every leaf but the last is full and a tree needs no
// pointers. The split is a quickselect with a pivot from a sample (after Floyd and Rivest 1975) and
// a partition without branches; small ranges count ranks in registers instead. Cost: O(n log n) in
// expectation, in place, no allocation.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <utility>

#include "lanes.h"

namespace pointloss {

// Whole registers of four words, so that it moves as one of them up to kDim 3.
template <int kDim, class T>
struct alignas(4 * sizeof(T)) TreeItem {
  T at[kDim < 3 ? 3 : kDim];
  TreeIndex<T> id;
};

template <int kDim, class T>
struct TreeBox {
  T lo[kDim], hi[kDim];
};

struct LeafRange {
  int64_t first, count;
};

// The items and what their leaves become; TreeView in tree_search.h says the layouts.
template <int kDim, class T>
struct LeafArrays {
  TreeItem<kDim, T>* items;
  int64_t size;
  T* points;
  TreeIndex<T>* ids;
  T* boxes;
  int64_t most;  // nearest points that are searched for

  POINTLOSS_HD int64_t begin(LeafRange range) const { return range.first * kWidth<T>; }
  POINTLOSS_HD int64_t end(LeafRange range) const {
    return std::min(size, (range.first + range.count) * kWidth<T>);
  }
};

template <int kDim, class T>
POINTLOSS_HD TreeBox<kDim, T> bounding_box(const TreeItem<kDim, T>* items, int64_t n) {
  using Quad = typename LaneTypes<T>::Quad;  // lanes beyond kDim hold an index, which nobody reads
  constexpr int kQuads = (kDim + 3) / 4;
  Quad first[kQuads];
  __builtin_memcpy(first, items, sizeof first);
  // Two chains of minima, to hide half of their latency.
  Quad los[2][kQuads], his[2][kQuads];
  for (int q = 0; q < kQuads; ++q) los[0][q] = los[1][q] = his[0][q] = his[1][q] = first[q];
  for (int64_t i = n & 1; i < n; i += 2) {
    Quad item[2][kQuads];
    for (int half = 0; half < 2; ++half) {
      __builtin_memcpy(item[half], items + i + half, sizeof item[half]);
      for (int q = 0; q < kQuads; ++q) {
        los[half][q] = smaller(item[half][q], los[half][q]);
        his[half][q] = larger(item[half][q], his[half][q]);
      }
    }
  }
  TreeBox<kDim, T> box;
  for (int k = 0; k < kDim; ++k) {
    box.lo[k] = smaller(los[0][k / 4], los[1][k / 4])[k % 4];
    box.hi[k] = larger(his[0][k / 4], his[1][k / 4])[k % 4];
  }
  return box;
}

template <int kDim, class T>
POINTLOSS_HD int widest_axis(const TreeBox<kDim, T>& box) {
  int axis = 0;
  for (int k = 1; k < kDim; ++k) {
    if (box.hi[k] - box.lo[k] > box.hi[axis] - box.lo[axis]) axis = k;
  }
  return axis;
}

// Brings the items below the pivot (or upto it) to the front and returns where the others begin.
template <bool kOrEqual, int kDim, class T>
POINTLOSS_HD int64_t partition_items(TreeItem<kDim, T>* items, int64_t begin, int64_t end, int axis,
                                     T pivot) {
  int64_t middle = begin;
  for (int64_t i = begin; i < end; ++i) {
    const TreeItem<kDim, T> item = items[i];
    items[i] = items[middle];
    items[middle] = item;
    middle += kOrEqual ? item.at[axis] <= pivot : item.at[axis] < pivot;
  }
  return middle;
}

// Ranges up to kExact have their k-th key found by counting; longer ones are sampled by 16 points
// and one more for every 64, at most kSample. Measured: n^2 counts beat a finer sample up to there.
constexpr int64_t kExact = 48;
constexpr int64_t kSample = 64;
// Registers of keys that are counted at once; keys are padded to a multiple of them.
constexpr int64_t kCounted = 4;

// The key with at most k smaller ones and, but for equals, exactly k. n <= kSample; keys beyond n
// are infinite.
template <class T>
POINTLOSS_HD T kth_smallest(const T* keys, int64_t n, int64_t k) {
  using Int = IntLanes<T>;
  using Real = RealLanes<T>;
  const Int limit = Int{} + static_cast<TreeIndex<T>>(k);
  Int most = Int{} - 1;
  Real found{};
  for (int64_t i = 0; i < n; i += kCounted * kWidth<T>) {
    Real key[kCounted];
    __builtin_memcpy(key, keys + i, sizeof key);
    Int less[kCounted] = {};
    for (int64_t j = 0; j < n; ++j) {
      const Real other = broadcast<T>(keys[j]);
      for (int64_t part = 0; part < kCounted; ++part) less[part] -= other < key[part];
    }
    for (int64_t part = 0; part < kCounted; ++part) {
      const Int better = (less[part] <= limit) & (less[part] > most);
      most = better ? less[part] : most;
      found = better ? key[part] : found;
    }
  }
  int64_t lane = 0;
  for (int64_t l = 1; l < kWidth<T>; ++l) lane = most[l] > most[lane] ? l : lane;
  return found[lane];
}

// A key of the range, near the k-th.
template <int kDim, class T>
POINTLOSS_HD T choose_pivot(const TreeItem<kDim, T>* items, int64_t begin, int64_t end, int64_t k,
                            int axis) {
  alignas(32) T sample[kSample];
  const int64_t n = end - begin;
  const int64_t size = n <= kExact ? n : std::min(n / 64 + 16, kSample), step = n / size;
  for (int64_t s = 0; s < size; ++s) sample[s] = items[begin + s * step].at[axis];
  for (int64_t s = size; s % (kCounted * kWidth<T>) != 0; ++s) {
    sample[s] = std::numeric_limits<T>::infinity();
  }
  int64_t rank = k - begin;
  if (n > kExact) {
    // Near an end of the range the pivot goes a little beyond k: what is left then is short.
    rank = rank * size / n;
    rank += rank < size / 4 ? 3 : rank >= size * 3 / 4 ? -3 : 0;
  }
  return kth_smallest(sample, size, rank);
}

// Afterwards no item of [begin, k) lies above one of [k, end) on this axis. The pivot is in the
// range, so every turn shortens it.
template <int kDim, class T>
POINTLOSS_HD void select_item(TreeItem<kDim, T>* items, int64_t begin, int64_t end, int64_t k,
                              int axis) {
  for (;;) {
    const T pivot = choose_pivot(items, begin, end, k, axis);
    const int64_t less = partition_items<false>(items, begin, end, axis, pivot);
    if (k == less) return;
    if (k < less) {
      end = less;
    } else if (less > begin) {
      begin = less;
    } else {  // the pivot is the smallest key, perhaps of many: all of them step aside
      begin = partition_items<true>(items, begin, end, axis, pivot);
      if (k <= begin) return;
    }
  }
}

// Splits a range of two leaves or more and returns how many leaves come first. Halves are multiples
// of a power of kWidth, so that a node of the tree above is one piece of space.
template <int kDim, class T>
POINTLOSS_HD int64_t split_leaves(const LeafArrays<kDim, T>& tree, LeafRange range, int axis) {
  int64_t unit = 1;
  while (unit * kWidth<T> < range.count) unit *= kWidth<T>;
  const int64_t left = ((range.count + unit - 1) / unit + 1) / 2 * unit;
  const int64_t begin = tree.begin(range);
  select_item(tree.items, begin, tree.end(range), begin + left * kWidth<T>, axis);
  return left;
}

template <int kDim, class T>
POINTLOSS_HD void set_box(T* boxes, int64_t child, const TreeBox<kDim, T>& box) {
  T* node = boxes + child / kWidth<T> * (2 * kDim * kWidth<T>)+child % kWidth<T>;
  for (int64_t k = 0; k < kDim; ++k) {
    node[k * kWidth<T>] = box.lo[k];
    node[(kDim + k) * kWidth<T>] = box.hi[k];
  }
}

// Points of a leaf by ascending index: the first of equally near ones is then the lowest.
template <int kDim, class T>
POINTLOSS_HD void write_leaf(const LeafArrays<kDim, T>& tree, int64_t leaf) {
  constexpr int64_t W = kWidth<T>;
  const TreeItem<kDim, T>* items = tree.items + leaf * W;
  const int64_t count = std::min(W, tree.size - leaf * W);
  T* points = tree.points + leaf * kDim * W;
  TreeIndex<T>* ids = tree.ids + leaf * W;
  for (int64_t i = 0; i < W; ++i) ids[i] = i < count ? items[i].id : -1;
  const auto id = load_lanes<IntLanes<T>>(ids);
  IntLanes<T> rank{};
  for (int64_t i = 0; i < count; ++i) rank -= (IntLanes<T>{} + items[i].id) < id;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t to = rank[i];
    for (int64_t k = 0; k < kDim; ++k) points[k * W + to] = items[i].at[k];
    ids[to] = items[i].id;
  }
  for (int64_t i = count; i < W;
       ++i) {  // an infinite point is at distance inf or NaN: never nearer
    for (int64_t k = 0; k < kDim; ++k) points[k * W + i] = std::numeric_limits<T>::infinity();
  }
}

// Writes leaves that are not split further: one, or many whose points are all equal. Of those the
// `most` lowest indices answer for all; leaves without any of them get an empty box, at distance
// inf from everything, so that duplicates cost a search nothing.
template <int kDim, class T>
POINTLOSS_HD void write_leaves(const LeafArrays<kDim, T>& tree, LeafRange range,
                               const TreeBox<kDim, T>& box) {
  constexpr T kInf = std::numeric_limits<T>::infinity();
  TreeItem<kDim, T>*first = tree.items + tree.begin(range), *end = tree.items + tree.end(range);
  if (range.count > 1 && tree.most < end - first) {
    std::nth_element(first, first + (tree.most - 1), end,
                     [](const auto& a, const auto& b) { return a.id < b.id; });
  }
  const int64_t answering = (tree.most + kWidth<T> - 1) / kWidth<T>;
  for (int64_t leaf = range.first; leaf < range.first + range.count; ++leaf) {
    write_leaf(tree, leaf);
    TreeBox<kDim, T> empty;
    for (int k = 0; k < kDim; ++k) empty.lo[k] = kInf, empty.hi[k] = -kInf;
    set_box(tree.boxes, leaf, leaf < range.first + answering ? box : empty);
  }
}

template <int kDim, class T>
POINTLOSS_HD void order_leaves(const LeafArrays<kDim, T>& tree, LeafRange all) {
  LeafRange open[64];  // halves that wait: one for every halving of at most 2^63 leaves
  int64_t depth = 0;
  open[depth++] = all;
  while (depth > 0) {
    const LeafRange range = open[--depth];
    const int64_t begin = tree.begin(range);
    const TreeBox<kDim, T> box = bounding_box(tree.items + begin, tree.end(range) - begin);
    const int axis = widest_axis(box);
    if (range.count > 1 && box.lo[axis] < box.hi[axis]) {
      const int64_t left = split_leaves(tree, range, axis);
      open[depth++] = {range.first + left, range.count - left};
      open[depth++] = {range.first, left};
    } else {
      write_leaves(tree, range, box);
    }
  }
}

#ifdef POINTLOSS_HAS_AVX2_VARIANT
template <int kDim, class T>
POINTLOSS_AVX2 void order_leaves_avx2(const LeafArrays<kDim, T>& tree, LeafRange all) {
  order_leaves(tree, all);
}
#endif

template <int kDim, class T>
void order_leaves_dispatch(const LeafArrays<kDim, T>& tree, LeafRange all) {
#ifdef POINTLOSS_HAS_AVX2_VARIANT
  if (cpu_has_avx2()) {
    order_leaves_avx2(tree, all);
    return;
  }
#endif
  order_leaves(tree, all);
}

}  // namespace pointloss
