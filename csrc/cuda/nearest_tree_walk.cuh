// SPDX-License-Identifier: MIT
// A warp of queries walks a tree of boxes: leaves of 16 points along the Hilbert curve, nodes of 32
// leaves, and (large clouds) nodes of 32 nodes. Exact, ties to the lowest index.
//
// Map: kLanes lanes share a query, so a warp holds 32 / kLanes queries that are neighbours on the
// curve. The boxes of 32 children are tested at once against the box of all the warp's queries, one
// child a lane; what remains is tested query by query, where the lanes of a query take turns with
// the leaves. A leaf is scanned without its indices: the lowest index at the least distance is
// looked up when it is needed, which is once a query unless distances tie.
//
// Exactness. A node or leaf is left out only if its box distance, which is never above a computed
// distance to a point inside (see point_box), is above the best distance known, or equal to it
// while no index inside is lower. With queries far from the target two more tests may leave it out
// (FarTest, Disc); both keep whatever rounding could make a neighbour or a tie.
#pragma once

#include "nearest_tree_disc.cuh"
#include "nearest_tree_warp.cuh"

namespace pointloss {

// Can a point of a box be nearer than a known target point (the pivot) to any query of the warp?
// |t - q|^2 - |p - q|^2 with t and q taken relative to the pivot p is t * (t - 2 q) an axis: least
// for t at q clamped to the box, and concave in q, so the ends of the queries' box suffice. Unlike
// a test against the largest bound it stays sharp when the queries are far away.
// Rounding, u = 2^-24: with e the sum of the largest squares of t and q, the sum below is off by
// less than 14 u e, the distance to the point by less than 10 u e and that to the pivot by less
// than 5 u e; together below 2e-6 e. Twice that is left as a margin, and kFloor covers what
// underflows.
//
// For a disc the same sum is known for the query in the middle, from the disc's distance D to it
// and the pivot's P: at least D^2 - P^2. It is linear in q, with a gradient of twice t - p, so for
// a query at most `spread` away it is less by at most twice `spread` times the farthest of the disc
// from the pivot. The errors are those of D^2, P^2 and the two distances compared, again below
// 2e-6 of D^2 + P^2 + spread^2 together.
struct FarTest {
  static constexpr float kSlack = 4e-6f, kFloor = 1e-30f;
  float3 low, high;  // box of the queries relative to the pivot
  float3 pivot;
  float3 middle;  // a query in the middle
  float known;    // squared distance from there to the pivot
  float spread;   // of the queries around the one in the middle

  __device__ __forceinline__ bool wants(const Disc& disc) const {
    const float3 v =
        make_float3(disc.centre.x - pivot.x, disc.centre.y - pivot.y, disc.centre.z - pivot.z);
    const float farthest = sqrtf(sum_of_squares(v.x, v.y, v.z)) + disc.radius + disc.half_height;
    const float square = disc.distance(middle);
    const float slack = fmaf(kSlack, square + known + spread * spread, kFloor);
    return !(square - known > fmaf(2.0001f * spread, farthest, slack));
  }
  __device__ __forceinline__ bool wants(const Box& box) const {
    const float4 lower = box.lower, upper = box.upper;
    float sum = 0, size = kFloor;
    const auto axis = [&](float q0, float q1, float t0, float t1) {
      const float a = fminf(fmaxf(q0, t0), t1), b = fminf(fmaxf(q1, t0), t1);
      sum += fminf(a * (a - 2 * q0), b * (b - 2 * q1));
      const float q = fmaxf(fabsf(q0), fabsf(q1)), t = fmaxf(fabsf(t0), fabsf(t1));
      size = fmaf(q, q, fmaf(t, t, size));
    };
    axis(low.x, high.x, lower.x - pivot.x, upper.x - pivot.x);
    axis(low.y, high.y, lower.y - pivot.y, upper.y - pivot.y);
    axis(low.z, high.z, lower.z - pivot.z, upper.z - pivot.z);
    return !(sum > kSlack * size);  // true also when something overflowed to NaN
  }
};

// A bool that is known when the code is compiled.
template <bool kValue>
struct Known {
  __device__ constexpr operator bool() const { return kValue; }
};

// Target: leaves with leaf_boxes and leaf_count, their parents' node_boxes and node_count, discs of
// both and nearest_leaf(low, high) of a warp's queries where kHasDiscs, and point(index).
template <class Target, int kLanes>
struct Walk {
  static constexpr int kQueries = 32 / kLanes;
  static constexpr int kUnknown = -1;

  const Target& target;
  float3 q;
  float3 low, high;          // of the warp's queries
  float best = kInfinity;    // that this lane has found
  float bound = kInfinity;   // that the lanes of this query have found
  int leaf = -1;             // that holds best
  int index = 0;             // of best; kUnknown until it is looked up
  float radius = kInfinity;  // the largest bound of the warp
  int seeded;                // leaf scanned before the walk
  FarTest far_test;          // for a warp whose queries' box is small against their distances

  __device__ __forceinline__ Walk(const Target& t, float3 query) : target(t), q(query) {}

  __device__ __forceinline__ int lookup() {
    if (index == kUnknown) index = target.leaves[leaf].lowest_index(q, best);
    return index;
  }

  __device__ __forceinline__ void scan(int k) {
    if (Target::kHasDiscs && k == leaf) return;  // a leaf of a bad guess may come up again
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

  // The same for all the queries of the warp; every lane may ask about another box.
  __device__ __forceinline__ bool warp_wants(bool in, float distance, const Box& box) {
    bool wanted = in && distance < radius;
    const bool ties = in && distance == radius && radius < kInfinity;
    if (__any_sync(kWholeWarp, ties)) {
      const unsigned highest = warp_max(best > bound ? 0x7fffffffu : unsigned(lookup()));
      wanted |= ties && unsigned(box.least()) < highest;
    }
    return wanted;
  }

  // Below, `far` says whether the warp is far from the target. It is Known where there are discs,
  // whose code would cost registers when it is not used, and else a bool, for shorter code.

  // Whether a disc shows that what is inside does not matter to this lane.
  template <class Far>
  __device__ __forceinline__ bool beyond(Far far, const Disc* discs, int k) const {
    if constexpr (Target::kHasDiscs) return far && discs[k].distance(q) > bound + kDiscFloor;
    return false;
  }

  // Ranks what has this box distance and disc for a visit, the nearest first.
  template <class Far>
  __device__ __forceinline__ float rank(Far far, const Disc* discs, int k, float distance) const {
    if constexpr (Target::kHasDiscs) {
      if (far) return fmaxf(distance, discs[k].distance(far_test.middle));
    }
    return distance;
  }

  // Whether box and disc k can hold a neighbour of any query of the warp.
  template <class Far>
  __device__ __forceinline__ bool survives(Far far, const Box& box, const Disc* discs,
                                           int k) const {
    if (!far) return true;
    if constexpr (Target::kHasDiscs) {
      if (!far_test.wants(discs[k])) return false;
    }
    return far_test.wants(box);
  }

  // Lets the lanes of a query know of each other's finds, and the warp of the largest bound.
  __device__ __forceinline__ void share() {
    for (int offset = 1; offset < kLanes; offset *= 2) {
      bound = fminf(bound, __shfl_xor_sync(kWholeWarp, bound, offset));
    }
    radius = warp_max_positive(bound);
  }

  // `guess` is a leaf near the query on the curve: its lanes scan leaves around it. Returns whether
  // the warp is far from the target.
  __device__ __forceinline__ bool start(int guess) {
    const int sub = threadIdx.x % kLanes;
    // Each lane scans a leaf that would have been its turn, so that none is scanned twice.
    const int first = max(0, min(guess - kLanes / 2, target.leaf_count - kLanes));
    seeded = first + (sub - first % kLanes + kLanes) % kLanes;
    if (seeded < target.leaf_count) scan(seeded);
    __syncwarp();
    low = make_float3(warp_min(q.x), warp_min(q.y), warp_min(q.z));
    high = make_float3(warp_max(q.x), warp_max(q.y), warp_max(q.z));
    share();
    const float wide = sum_of_squares(high.x - low.x, high.y - low.y, high.z - low.z);
    if (radius <= 4 * wide) return false;
    if constexpr (Target::kHasDiscs) {  // far away, or the guess was bad
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
    if constexpr (!Target::kHasDiscs) return;  // the rest is for them
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
    const float reach = box_box(low, high, own_box);
    const float order = rank(far, target.leaf_discs, own, reach);
    bool wanted = warp_wants(first + lane < target.leaf_count, reach, own_box);
    const unsigned ties = __ballot_sync(kWholeWarp, wanted && reach == radius);
    wanted = wanted && survives(far, own_box, target.leaf_discs, own);
    unsigned turn = __ballot_sync(kWholeWarp, wanted);
    if (ties != 0 || (Target::kHasDiscs && far && turn != 0)) {
      // A first leaf for all queries. Of many points at one distance the lowest index of all, which
      // settles most leaves; from afar the one that is nearest to the warp.
      const int child =
          ties != 0 ? lane_of_least(ties, reach, own_box.least()) : lane_of_least(turn, order);
      scan(first + child);
      __syncwarp();
      share();
      wanted = warp_wants(wanted && lane != child, reach, own_box);
      turn = __ballot_sync(kWholeWarp, wanted);
    }
    if (kLanes > 1) turn &= (0xffffffffu / ((1u << kLanes) - 1)) << (lane % kLanes);
    if (seeded >= first && seeded - first < 32) turn &= ~(1u << (seeded - first));
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
      if (Target::kHasDiscs && far) {
        // Most queries of a warp want the same leaves: scanned together they cost less.
        if (wants(distance, boxes[child]) && !beyond(far, target.leaf_discs, first + child)) {
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
    const float order = rank(far, target.node_discs, own, distance);
    bool wanted = warp_wants(in, distance, own_box);
    wanted = wanted && survives(far, own_box, target.node_discs, own);
    unsigned pending = __ballot_sync(kWholeWarp, wanted);
    while (pending != 0) {
      const int child = lane_of_least(pending, order, own_box.least());
      const Box& box = target.node_boxes[first + child];
      const bool mine =
          wants(point_box(q, box), box) && !beyond(far, target.node_discs, first + child);
      if (__any_sync(kWholeWarp, mine)) {
        visit_leaves(far, 32 * (first + child));
        if (far) place_pivot();
        wanted = warp_wants(wanted, distance, own_box);
        wanted = wanted && survives(far, own_box, target.node_discs, own);
      }
      if (lane == child) wanted = false;
      pending = __ballot_sync(kWholeWarp, wanted);
    }
  }

  // Index of the nearest point, the same in all lanes of the query; best becomes its distance.
  __device__ __forceinline__ int finish() {
    int found = best == bound && bound < kInfinity ? lookup() : INT_MAX;
    __syncwarp();
    for (int offset = 1; offset < kLanes; offset *= 2) {
      found = min(found, __shfl_xor_sync(kWholeWarp, found, offset));
    }
    return found == INT_MAX ? -1 : found;
  }
};

}  // namespace pointloss
