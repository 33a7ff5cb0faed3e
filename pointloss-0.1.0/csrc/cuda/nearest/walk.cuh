// SPDX-License-Identifier: MIT
// A warp of queries walks a tree of boxes: leaves along the Hilbert curve, nodes of 32 leaves, and
// (large clouds) upper nodes of 32 nodes. Exact, ties to the lowest index.
//
// Map: kLanes lanes share a query, so a warp holds 32 / kLanes queries that are neighbours on the
// curve. The boxes of 32 children are tested at once against the box of all the warp's queries, one
// child per lane; what remains is tested query by query, where the lanes of a query take turns with
// the leaves. A leaf is scanned without its indices: the lowest index at the least distance is
// looked up when it is needed, which is once per query unless distances tie.
// Guarantee: a node or leaf is left out only if its box distance, which is never above a computed
// distance to a point inside (point_box), is above the best distance known, or equal to it while no
// index inside is lower. If the queries are far from the target, FarTest and the distance to a
// cylinder may leave it out, too; both keep whatever rounding could make a neighbour or a tie.
#pragma once

#include <type_traits>

#include "box.cuh"
#include "cylinder.cuh"
#include "far_bound.cuh"

namespace pointloss {

// Target: leaves with leaf_boxes and leaf_count, their parents' node_boxes and node_count,
// cylinders of both and nearest_leaf(low, high) of a warp's queries if kHasCylinders, and
// point(index).
template <class Target, int kLanes>
struct Walk {
  static constexpr int kUnknown = -1;

  const Target& target;
  float3 q;
  float3 low, high;          // of the warp's queries
  float best = kInfinity;    // that this lane has found
  float bound = kInfinity;   // that the lanes of this query have found
  int leaf = -1;             // that holds best
  int index = 0;             // of best; kUnknown until it is looked up
  float radius = kInfinity;  // the largest bound of the warp
  int seed;                  // leaf scanned before the walk
  FarTest far_test;          // for a warp whose queries' box is small against their distances

  __device__ __forceinline__ Walk(const Target& t, float3 query) : target(t), q(query) {}

  __device__ __forceinline__ int lookup() {
    if (index == kUnknown) index = target.leaves[leaf].lowest_index(q, best);
    return index;
  }

  __device__ __forceinline__ void scan(int k) {
    if (Target::kHasCylinders && k == leaf) return;  // the leaf of a bad seed may come up again
    const float least = target.leaves[k].least_distance(q);
    if (least < best) {
      best = least, leaf = k, index = kUnknown;
      bound = fminf(bound, best);
    } else if (least == best && least < kInfinity) {
      index = min(lookup(), target.leaves[k].lowest_index(q, best));
    }
  }

  // Whether a box at this distance, holding no index below `least`, can matter to this lane.
  __device__ __forceinline__ bool wants(float distance, const Box& box) {
    if (distance != bound) return distance < bound;
    if (bound == kInfinity) return false;
    return best > bound || box.least() < lookup();
  }

  // The same for all the queries of the warp; every lane may have another box.
  __device__ __forceinline__ bool warp_wants(bool in, float distance, const Box& box) {
    bool wanted = in && distance < radius;
    const bool ties = in && distance == radius && radius < kInfinity;
    if (__any_sync(kWholeWarp, ties)) {
      const unsigned highest = warp_max(best > bound ? 0x7fffffffu : unsigned(lookup()));
      wanted |= ties && unsigned(box.least()) < highest;
    }
    return wanted;
  }

  // Below, `far` says whether the warp is far from the target. It is std::true_type or false_type
  // if there are cylinders, whose code would cost registers when it is not used, and else a bool,
  // for shorter code.

  // Whether a cylinder shows that what is inside does not matter to this lane.
  template <class Far>
  __device__ __forceinline__ bool beyond(Far far, const Cylinder* cylinders, int k) const {
    return Target::kHasCylinders && far && cylinders[k].distance(q) > bound + kCylinderFloor;
  }

  // Ranks what has this box distance and cylinder for a visit, the nearest first.
  template <class Far>
  __device__ __forceinline__ float rank(Far far, const Cylinder* cylinders, int k,
                                        float distance) const {
    if (!Target::kHasCylinders || !far) return distance;
    return fmaxf(distance, cylinders[k].distance(far_test.middle));
  }

  // Whether box and cylinder k can hold a neighbour of any query of the warp.
  template <class Far>
  __device__ __forceinline__ bool survives(Far far, const Box& box, const Cylinder* cylinders,
                                           int k) const {
    if (!far) return true;
    return (!Target::kHasCylinders || far_test.wants(cylinders[k])) && far_test.wants(box);
  }

  // Lets the lanes of a query know of each other's finds, and the warp of the largest bound.
  __device__ __forceinline__ void share() {
    bound = group_min<kLanes>(bound);
    radius = warp_max_positive(bound);
  }

  // The lanes of a query scan leaves around `near`, which is a leaf near the query on the curve.
  // Returns whether the warp is far from the target.
  __device__ __forceinline__ bool start(int near) {
    const int sub = threadIdx.x % kLanes;
    // Each lane scans a leaf that would have been its turn, so that none is scanned twice.
    const int first = max(0, min(near - kLanes / 2, target.leaf_count - kLanes));
    seed = first + (sub - first % kLanes + kLanes) % kLanes;
    if (seed < target.leaf_count) scan(seed);
    __syncwarp();
    low = make_float3(warp_min(q.x), warp_min(q.y), warp_min(q.z));
    high = make_float3(warp_max(q.x), warp_max(q.y), warp_max(q.z));
    share();
    const float wide = sum_of_squares(high.x - low.x, high.y - low.y, high.z - low.z);
    if (radius <= 4 * wide) return false;
    if constexpr (Target::kHasCylinders) {  // far away, or the seed was bad
      scan(target.nearest_leaf(low, high));
      __syncwarp();
      share();
    }
    if (!(radius > 4 * wide && radius < kInfinity)) return false;
    place_pivot();
    return true;
  }

  // What another walk has found; nothing is at INT_MAX.
  __device__ __forceinline__ void take(float distance, int at) {
    if (at != INT_MAX && (distance < best || (distance == best && at < lookup()))) {
      best = distance, index = at;
      bound = fminf(bound, best);
    }
    __syncwarp();
    share();
  }

  // The nearest known target point of a query in the middle becomes the pivot.
  __device__ __forceinline__ void place_pivot() {
    const float x = 2 * q.x - low.x - high.x, y = 2 * q.y - low.y - high.y,
                z = 2 * q.z - low.z - high.z;
    const unsigned owners = __ballot_sync(kWholeWarp, best == bound && leaf >= 0);
    const int middle = lane_of_least(owners, sum_of_squares(x, y, z));
    float3 p = q;
    if (static_cast<int>(threadIdx.x % 32) == middle) p = target.point(lookup());
    p = from_lane(p, middle);
    far_test.pivot = p;
    far_test.low = make_float3(low.x - p.x, low.y - p.y, low.z - p.z);
    far_test.high = make_float3(high.x - p.x, high.y - p.y, high.z - p.z);
    if constexpr (!Target::kHasCylinders) return;  // the rest is for them
    far_test.middle = from_lane(q, middle);
    far_test.known = __shfl_sync(kWholeWarp, bound, middle);
    far_test.spread = sqrtf(warp_max_positive(
        sum_of_squares(q.x - far_test.middle.x, q.y - far_test.middle.y, q.z - far_test.middle.z)));
  }

  // Leaves [first, first + 32): those that some query wants, each query its nearest one first.
  template <class Far>
  __device__ __forceinline__ void visit_leaves(Far far, int first) {
    const int lane = threadIdx.x % 32, own = min(first + lane, target.leaf_count - 1);
    const Box own_box = target.leaf_boxes[own];
    const float distance = box_box(low, high, own_box);
    const float order = rank(far, target.leaf_cylinders, own, distance);
    bool wanted = warp_wants(first + lane < target.leaf_count, distance, own_box);
    const unsigned ties = __ballot_sync(kWholeWarp, wanted && distance == radius);
    wanted = wanted && survives(far, own_box, target.leaf_cylinders, own);
    unsigned turn = __ballot_sync(kWholeWarp, wanted);
    if (ties != 0 || (Target::kHasCylinders && far && turn != 0)) {
      // A first leaf for all queries. Of many points at one distance the lowest index of all, which
      // settles most leaves; from afar the one that is nearest to the warp.
      const int child =
          ties != 0 ? lane_of_least(ties, distance, own_box.least()) : lane_of_least(turn, order);
      scan(first + child);
      __syncwarp();
      share();
      wanted = warp_wants(wanted && lane != child, distance, own_box);
      turn = __ballot_sync(kWholeWarp, wanted);
    }
    if (kLanes > 1) turn &= (0xffffffffu / ((1u << kLanes) - 1)) << (lane % kLanes);
    if (seed >= first && seed - first < 32) turn &= ~(1u << (seed - first));
    scan_leaves(far, first, turn);
    __syncwarp();
    share();
  }

  // Those leaves of `turn` that this lane's query wants.
  template <class Far>
  __device__ __forceinline__ void scan_leaves(Far far, int first, unsigned turn) {
    const Box* boxes = target.leaf_boxes + first;
    unsigned todo = 0;
    float nearest = kInfinity;
    int nearest_child = 0;
    while (turn != 0) {
      const int child = __ffs(turn) - 1;
      turn &= turn - 1;
      const float distance = point_box(q, boxes[child]);
      if (Target::kHasCylinders && far) {
        // Most queries of a warp want the same leaves: scanned together they cost less.
        if (wants(distance, boxes[child]) && !beyond(far, target.leaf_cylinders, first + child)) {
          scan(first + child);
        }
        continue;
      }
      const bool close = distance <= bound;
      if (close) todo |= 1u << child;
      if (close && distance < nearest) nearest = distance, nearest_child = child;
    }
    if (nearest < kInfinity) {
      scan(first + nearest_child);
      todo &= ~(1u << nearest_child);
    }
    if (kLanes > 1) {
      __syncwarp();
      share();
    }
    while (todo != 0) {
      const int child = __ffs(todo) - 1;
      todo &= todo - 1;
      if (wants(point_box(q, boxes[child]), boxes[child])) scan(first + child);
    }
  }

  // Nodes [first, first + 32), the nearest first.
  template <class Far>
  __device__ __forceinline__ void visit_nodes(Far far, int first) {
    const int lane = threadIdx.x % 32, own = min(first + lane, target.node_count - 1);
    const bool in = first + lane < target.node_count;
    const Box own_box = target.node_boxes[own];
    const float distance = in ? box_box(low, high, own_box) : kInfinity;
    const float order = rank(far, target.node_cylinders, own, distance);
    bool wanted = warp_wants(in, distance, own_box);
    wanted = wanted && survives(far, own_box, target.node_cylinders, own);
    unsigned pending = __ballot_sync(kWholeWarp, wanted);
    while (pending != 0) {
      const int child = lane_of_least(pending, order, own_box.least());
      const Box& box = target.node_boxes[first + child];
      const bool mine =
          wants(point_box(q, box), box) && !beyond(far, target.node_cylinders, first + child);
      if (__any_sync(kWholeWarp, mine)) {
        visit_leaves(far, 32 * (first + child));
        if (far) place_pivot();
        wanted = warp_wants(wanted, distance, own_box);
        wanted = wanted && survives(far, own_box, target.node_cylinders, own);
      }
      if (lane == child) wanted = false;
      pending = __ballot_sync(kWholeWarp, wanted);
    }
  }

  // Index of the nearest point, the same in all lanes of the query; best becomes its distance.
  __device__ __forceinline__ int finish() {
    int found = best == bound && bound < kInfinity ? lookup() : INT_MAX;
    __syncwarp();
    found = group_min<kLanes>(found);
    return found == INT_MAX ? -1 : found;
  }
};

}  // namespace pointloss
