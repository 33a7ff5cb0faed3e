// SPDX-License-Identifier: MIT
// The exact nearest neighbours of packets of queries in a tree.
//
// Method: a packet, one leaf of the queries' own tree, walks the target's tree once, kWidth queries
// in lanes (ray packets: Wald et al. 2001). It first scans the leaf to which a greedy descent
// leads, which bounds most answers tightly, then every leaf whose box reaches a query's bound:
// kWidth boxes of a node at once against the box of the packet, then each box against all queries
// at once. Exactness: a box is skipped only if its bound exceeds the distance found. The bound is
// the distance from the query to the box, taken by the operations of distance() in their order.
// Each of them rounds monotonically, and per axis the gap to the box is at most that to a point in
// it, so the bound never exceeds a distance as computed. Boxes that tie are visited, and equal
// distances go to the lower index: the answers are those of brute force bit for bit. Cost: O(log m)
// a packet for samples of one shape; never more than every leaf once, each for one box test and
// kWidth distances a query.
#pragma once

#include <cstdint>
#include <limits>

#include "lanes.h"

namespace pointloss {

// Levels of nodes; four children each (double) reach 4^32 leaves.
constexpr int64_t kMaxLevels = 32;

// What a search reads of a tree. A node is the boxes of kWidth children, [lo, hi][kDim][kWidth]:
// those of level 0 are leaves, those of level l are the nodes of level l - 1.
template <class T>
struct TreeView {
  const T* points;          // [leaves, kDim, kWidth]
  const TreeIndex<T>* ids;  // [leaves, kWidth], -1 behind the last point
  const T* nodes[kMaxLevels];
  int64_t children[kMaxLevels];  // of all nodes of a level: leaves, or nodes of the level below
  int64_t levels, leaves;
};

// The walk of one packet. Search, which derives from it, keeps what is found: scan(leaf) takes up
// the points of a leaf and lowers best_, the distance of each lane beyond which nothing matters to
// its query, and worst_, the largest of them in all lanes.
template <class Search, int kNorm, int kDim, class T>
class PacketWalk {
 protected:
  using Real = RealLanes<T>;
  using Int = IntLanes<T>;
  using Index = TreeIndex<T>;
  static constexpr int64_t W = kWidth<T>;

  POINTLOSS_HD PacketWalk(const TreeView<T>& queries, int64_t packet, const TreeView<T>& tree)
      : tree_(tree), ids_(queries.ids + packet * W) {
    const T* points = queries.points + packet * kDim * W;
    const T* box = queries.nodes[0] + packet / W * (2 * kDim * W) + packet % W;
    for (int64_t k = 0; k < kDim; ++k) {
      const T lo = box[k * W], hi = box[(kDim + k) * W];
      query_[k] = load_lanes<Real>(points + k * W);
      // An empty box stands for duplicates (write_leaves): they are all where the first is.
      low_[k] = broadcast<T>(lo <= hi ? lo : points[k * W]);
      high_[k] = broadcast<T>(lo <= hi ? hi : points[k * W]);
    }
    // The largest finite value, so that an infinite bound prunes; a lane without a query takes
    // none.
    const Int used = load_lanes<Int>(ids_) >= 0;
    best_ = used ? broadcast<T>(std::numeric_limits<T>::max()) : broadcast<T>(-1);
    worst_ = broadcast<T>(std::numeric_limits<T>::max());
  }

  POINTLOSS_HD const T* node_at(int64_t level, int64_t node) const {
    return tree_.nodes[level] + node * (2 * kDim * W);
  }

  // One bit for each child of a node: only the last node of a level lacks some. Boxes that are not
  // there are nowhere near, but an index that was changed may say anything.
  POINTLOSS_HD uint32_t children(int64_t level, int64_t node) const {
    const int64_t count = tree_.children[level] - node * W;
    return count < W ? (1u << count) - 1 : (1u << W) - 1;
  }

  // Distances from the box [lo, hi] to the children of a node.
  POINTLOSS_HD static Real bounds(const Real* lo, const Real* hi, const T* node) {
    Real sum{};
    for (int64_t k = 0; k < kDim; ++k) {
      const Real below = load_lanes<Real>(node + k * W) - hi[k];
      const Real above = lo[k] - load_lanes<Real>(node + (kDim + k) * W);
      sum = add_axis<kNorm, T>(k, larger<Real>(larger<Real>(below, above), Real{}), sum);
    }
    return sum;
  }

  // Whether a query may have its neighbour in this child of a node.
  POINTLOSS_HD bool reaches(const T* node, int64_t child) const {
    Real sum{};
    for (int64_t k = 0; k < kDim; ++k) {
      const Real below = node[k * W + child] - query_[k];
      const Real above = query_[k] - node[(kDim + k) * W + child];
      sum = add_axis<kNorm, T>(k, larger<Real>(larger<Real>(below, above), Real{}), sum);
    }
    return lane_bits<T>(sum <= best_) != 0;
  }

  // A leaf near the middle of the packet.
  POINTLOSS_HD int64_t descend() const {
    Real centre[kDim];
    for (int64_t k = 0; k < kDim; ++k) centre[k] = low_[k] * T(0.5) + high_[k] * T(0.5);
    int64_t node = 0;
    for (int64_t level = tree_.levels - 1; level >= 0; --level) {
      const Real d = bounds(centre, centre, node_at(level, node));
      const uint32_t nearest = lane_bits<T>(d == broadcast<T>(smallest_lane<T>(d)));
      const uint32_t present = children(level, node), taken = nearest & present;
      node = node * W + __builtin_ctz(taken != 0 ? taken : present);
    }
    return node;
  }

  // Depth first; a level keeps the bounds of its node and prunes by them again when it is resumed.
  // Leaves [first, last) have been scanned.
  POINTLOSS_HD void walk(int64_t first, int64_t last) {
    int64_t node[kMaxLevels];
    uint32_t pending[kMaxLevels];
    Real bound[kMaxLevels];
    int64_t level = tree_.levels - 1;
    node[level] = 0;
    pending[level] = children(level, 0);
    bound[level] = bounds(low_, high_, node_at(level, 0));
    while (level < tree_.levels) {
      const uint32_t open = pending[level] & lane_bits<T>(bound[level] <= worst_);
      if (open == 0) {
        ++level;
        continue;
      }
      const int64_t child = __builtin_ctz(open), below = node[level] * W + child;
      pending[level] &= ~(1u << child);
      // On higher levels the packet is small beside a child, and asking its queries prunes nothing.
      if (level <= 1 && !reaches(node_at(level, node[level]), child)) continue;
      if (level == 0) {
        if (below < first || below >= last) static_cast<Search*>(this)->scan(below);
        continue;
      }
      --level;
      node[level] = below;
      pending[level] = children(level, below);
      bound[level] = bounds(low_, high_, node_at(level, below));
    }
  }

  const TreeView<T>& tree_;
  const Index* ids_;
  Real query_[kDim], low_[kDim], high_[kDim];
  Real best_, worst_;
};

// The nearest alone, in registers.
template <int kNorm, int kDim, class T>
class PacketSearch : PacketWalk<PacketSearch<kNorm, kDim, T>, kNorm, kDim, T> {
  using Walk = PacketWalk<PacketSearch, kNorm, kDim, T>;
  using typename Walk::Index, typename Walk::Int, typename Walk::Real;
  using Walk::W, Walk::best_, Walk::ids_, Walk::query_, Walk::tree_, Walk::worst_;
  static constexpr Index kNone = std::numeric_limits<Index>::max();
  friend Walk;

 public:
  POINTLOSS_HD PacketSearch(const TreeView<T>& queries, int64_t packet, const TreeView<T>& tree)
      : Walk(queries, packet, tree) {
    best_id_ = Int{} + kNone;
  }

  POINTLOSS_HD void run(T* dist, int64_t* idx, int64_t /*k: 1*/) {
    const int64_t seed = this->descend();
    scan(seed);
    this->walk(seed, seed + 1);
    for (int64_t lane = 0; lane < W && ids_[lane] >= 0; ++lane) {
      const bool found = best_id_[lane] != kNone;
      dist[ids_[lane]] = found ? best_[lane] : std::numeric_limits<T>::infinity();
      idx[ids_[lane]] = found ? best_id_[lane] : -1;
    }
  }

 private:
  // The minima first, as most leaves of a far shell improve nothing; the indices only if one does.
  POINTLOSS_HD void scan(int64_t leaf) {
    const T* points = tree_.points + leaf * kDim * W;
    Real d[W];
    for (int64_t point = 0; point < W; ++point) {
      d[point] = Real{};
      for (int64_t k = 0; k < kDim; ++k) {
        d[point] = add_axis<kNorm, T>(k, query_[k] - points[k * W + point], d[point]);
      }
    }
    Real best = broadcast<T>(std::numeric_limits<T>::infinity());
    for (int64_t point = 0; point < W; ++point)
      best = smaller(d[point], best);  // keeps best for NaN
    if (lane_bits<T>(best <= best_) == 0) return;
    const Index* ids = tree_.ids + leaf * W;
    Int best_id = Int{} + kNone;
    for (int64_t point = W - 1; point >= 0; --point) {
      best_id = d[point] == best ? Int{} + ids[point] : best_id;
    }
    const Int better = (best < best_) | ((best == best_) & (best_id < best_id_));
    best_ = better ? best : best_;
    best_id_ = better ? best_id : best_id_;
    worst_ = broadcast<T>(largest_lane<T>(best_));
  }

  Int best_id_;
};

// Packets [begin, end) of the queries by a Search; dist and idx are in the order of the queries'
// cloud, [n, k].
template <class Search, class T>
POINTLOSS_HD void search_packets(const TreeView<T>& queries, int64_t begin, int64_t end,
                                 const TreeView<T>& tree, T* dist, int64_t* idx, int64_t k) {
  for (int64_t packet = begin; packet < end; ++packet) {
    Search(queries, packet, tree).run(dist, idx, k);
  }
}

#ifdef POINTLOSS_HAS_AVX2_VARIANT
template <class Search, class T>
POINTLOSS_AVX2 void search_packets_avx2(const TreeView<T>& queries, int64_t begin, int64_t end,
                                        const TreeView<T>& tree, T* dist, int64_t* idx, int64_t k) {
  search_packets<Search>(queries, begin, end, tree, dist, idx, k);
}
#endif

template <class Search, class T>
void search_packets_dispatch(const TreeView<T>& queries, int64_t begin, int64_t end,
                             const TreeView<T>& tree, T* dist, int64_t* idx, int64_t k) {
#ifdef POINTLOSS_HAS_AVX2_VARIANT
  if (cpu_has_avx2()) {
    search_packets_avx2<Search>(queries, begin, end, tree, dist, idx, k);
    return;
  }
#endif
  search_packets<Search>(queries, begin, end, tree, dist, idx, k);
}

}  // namespace pointloss
