// SPDX-License-Identifier: MIT
// Queries that are far from a target whose size differs from theirs.
//
// Problem: from afar many leaves look as near as the nearest one, and all queries of a warp look at
// the same of them.
// Method: the warp looks for the points that can be nearest to any of its queries, with all lanes
// together: upper nodes, nodes and leaves by FarBound's bounds of boxes and cylinders, then a point
// per lane. Those that remain, some dozens of a million, are listed in shared memory, and every
// query computes its distance to each of them. The pivot of the test is the known point nearest to
// the middle of the queries. If the queries see the target under so wide an angle that too many
// points remain, this walk is given up for the usual one, with the bounds that it has found.
// Cost: without it a small blob beside a surface took four times as long as a surface beside a
// surface. If the clouds are equally large it is not tried: warps far from the target then want
// more points than any of their queries does.
// Guarantee: FarBound keeps every nearest point and every tie; the list holds the indices. A box of
// equal points is listed as one point, with the lowest index.
#pragma once

#include "../far_bound.cuh"
#include "target.cuh"

namespace pointloss {

struct FarWalk {
  const TreeTarget& target;
  const float3 q;
  const int lanes;         // of a query
  float4* const list;      // w holds the index
  const float3 low, high;  // of the queries
  int listed = 0;
  int spare = 0;  // points that may still be listed only because the queries differ
  FarBound test;
  float best = kInfinity;
  int index = INT_MAX;

  // `pivot` is a target point near the middle of the queries, of which `low` and `high` bound all.
  __device__ __forceinline__ FarWalk(const TreeTarget& t, float3 query, int lanes_of_query,
                                     float3 lower, float3 upper, float3 pivot, float4* room)
      : target(t), q(query), lanes(lanes_of_query), list(room), low(lower), high(upper) {
    test.place(low, high, pivot);
  }

  // Each query computes its distances to the points of the list, which is then empty.
  __device__ __forceinline__ void empty_list() {
    __syncwarp();
#pragma unroll 4
    for (int k = threadIdx.x % lanes; k < listed; k += lanes) {
      const float4 p = list[k];
      const int i = __float_as_int(p.w);
      const float d = sum_of_squares(q.x - p.x, q.y - p.y, q.z - p.z);
      if (d <= best) index = d < best ? i : min(i, index), best = d;
    }
    __syncwarp();
    listed = 0;
  }

  // Lists the points of those lanes whose are wanted.
  __device__ __forceinline__ void add(bool wanted, float x, float y, float z, int i) {
    const unsigned who = __ballot_sync(kWholeWarp, wanted);
    const int more = __popc(who);
    if (listed + more > kListed) empty_list();
    if (wanted) {
      list[listed + rank_in(who)] = make_float4(x, y, z, __int_as_float(i));
    }
    listed += more;
  }

  // The same for boxes: those of equal points are listed. Returns the lanes of all others.
  __device__ __forceinline__ unsigned add_equal(bool wanted, const Box& box) {
    const float4 p = box.lower;
    const bool equal = p.x == box.upper.x && p.y == box.upper.y && p.z == box.upper.z;
    if (__any_sync(kWholeWarp, wanted && equal)) add(wanted && equal, p.x, p.y, p.z, box.least());
    return __ballot_sync(kWholeWarp, wanted && !equal);
  }

  // A point of a leaf that is wanted goes to the list. Returns its excess.
  __device__ __forceinline__ float visit_point(bool in, float3 p, int i) {
    const float3 t = test.relative(p);
    const float excess = test.excess(t);
    const bool wanted = in && test.wants(excess - test.spread(t, 0));
    add(wanted, p.x, p.y, p.z, i);
    spare -= __popc(__ballot_sync(kWholeWarp, wanted && !test.wants(excess)));
    return excess;
  }

  // Points of `leaf` and of up to three leaves of `turn`, which is left without them, a lane each.
  // Returns whether there is a new pivot.
  __device__ __forceinline__ bool visit_points(int first, int leaf, unsigned& turn) {
    const int lane = threadIdx.x % 32, slot = lane % kLeafPoints;
    const auto next = [&] {
      const int child = __ffs(turn) - 1;  // -1 if there is none
      turn &= turn - 1;
      return child;
    };
    const int second = next(), third = next(), fourth = next();
    const int one = lane < kLeafPoints ? leaf : second, two = lane < kLeafPoints ? third : fourth;
    const TreeLeaf &a = target.leaves[first + max(one, 0)], &b = target.leaves[first + max(two, 0)];
    const float3 p = a.point(slot), r = b.point(slot);
    const int i = a.index[slot], j = b.index[slot];
    const float excess = visit_point(one >= 0, p, i);
    const float other = third >= 0 ? visit_point(two >= 0, r, j) : 0;
    const unsigned nearer = __ballot_sync(kWholeWarp, excess < 0 || other < 0);
    if (nearer == 0) return false;
    const int from = lane_of_lowest(nearer, fminf(excess, other));
    test.place(low, high, from_lane(excess <= other ? p : r, from));
    return true;
  }

  // Visits the children of `turn` in the rising order of `order`, which wants() renews, and after a
  // new pivot only those that are still wanted. Returns whether there is a new pivot.
  template <class Wants, class Visit>
  __device__ __forceinline__ bool visit_children(unsigned turn, const float& order,
                                                 const Wants& wants, const Visit& visit) {
    const int lane = threadIdx.x % 32;
    bool moved = false;
    while (turn != 0 && spare >= 0) {
      const int child = lane_of_lowest(turn, order);
      turn &= ~(1u << child);
      if (!visit(child, turn)) continue;
      moved = true;
      turn = __ballot_sync(kWholeWarp, ((turn >> lane) & 1) && wants());
    }
    return moved;
  }

  // Leaves [first, first + 32). Returns whether there is a new pivot.
  __device__ __forceinline__ bool visit_leaves(int first) {
    const int lane = threadIdx.x % 32, own = min(first + lane, target.leaf_count - 1);
    const Cylinder& cylinder = target.leaf_cylinders[own];
    float order = 0;
    const auto wants = [&] { return test.wants(cylinder, order); };
    const bool wanted = first + lane < target.leaf_count && wants();
    unsigned turn = __ballot_sync(kWholeWarp, wanted);
    if (turn == 0) return false;
    if (__any_sync(kWholeWarp, wanted && cylinder.radius == 0)) {
      turn = add_equal(wanted, target.leaf_boxes[own]);
    }
    return visit_children(turn, order, wants, [&](int child, unsigned& left) {
      return visit_points(first, child, left);
    });
  }

  // Nodes [first, first + 32). Returns whether there is a new pivot.
  __device__ __forceinline__ bool visit_nodes(int first) {
    const int lane = threadIdx.x % 32, own = min(first + lane, target.node_count - 1);
    const Cylinder& cylinder = target.node_cylinders[own];
    const Box& box = target.node_boxes[own];
    float order = 0;
    const auto wants = [&] { return test.wants(cylinder, order) && test.wants(test.least(box)); };
    const unsigned turn = add_equal(first + lane < target.node_count && wants(), box);
    return visit_children(turn, order, wants,
                          [&](int child, unsigned) { return visit_leaves(32 * (first + child)); });
  }

  // All of the tree, unless too many points are wanted only because the queries differ; then spare
  // is below 0.
  __device__ __forceinline__ void visit_uppers() {
    const int lane = threadIdx.x % 32;
    for (int first = 0; first < target.upper_count; first += 32) {
      const bool in = first + lane < target.upper_count;
      const UpperNode& upper = target.upper_nodes[in ? first + lane : 0];
      float order = 0;
      const auto wants = [&] { return test.wants(order = test.least(upper.box())); };
      const unsigned turn = add_equal(in && wants(), upper.box());
      visit_children(turn, order, wants,
                     [&](int child, unsigned) { return visit_nodes(32 * (first + child)); });
    }
  }

  // Lets the lanes of a query know of the nearest that one of them found.
  __device__ __forceinline__ void finish() {
    empty_list();
    for (int offset = 1; offset < lanes; offset *= 2) {
      const float other = __shfl_xor_sync(kWholeWarp, best, offset);
      const int at = __shfl_xor_sync(kWholeWarp, index, offset);
      if (other < best || (other == best && at < index)) best = other, index = at;
    }
  }

  // Whether the box of the queries is large against the distance from its middle to the target.
  __device__ __forceinline__ bool is_near() const {
    const float3 c = test.centre, h = test.half;
    return sum_of_squares(c.x, c.y, c.z) < 4 * sum_of_squares(h.x, h.y, h.z);
  }

  // Returns whether all of the tree was searched, which it is not if the queries differ much.
  __device__ __forceinline__ bool run() {
    spare = kSpare / (lanes * lanes);
    if (is_near()) return false;
    visit_uppers();
    finish();
    return spare >= 0;
  }
};

// For a warp that is far from the target. If the walk from afar is given up, the bounds that it has
// found make the usual one short.
template <int kLanes>
__device__ __forceinline__ void search_from_afar(Walk<TreeTarget, kLanes>& walk, bool sizes_differ,
                                                 float4* room) {
  if (sizes_differ && walk.radius > 4 * FarBound::kLeastRadius) {
    FarWalk far(walk.target, walk.q, kLanes, walk.low, walk.high, walk.far_test.pivot, room);
    const bool all = far.run();
    walk.take(far.best, far.index);
    if (all) return;
    walk.place_pivot();
  }
  visit_uppers(walk, std::true_type());
}

}  // namespace pointloss
