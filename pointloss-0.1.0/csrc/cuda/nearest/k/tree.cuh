// SPDX-License-Identifier: MIT
// The k nearest neighbours in large clouds of 3-D points: a warp per query walks the tree, exact.
//
// Method: the target's tree of boxes (../tree/forest.cuh), as nearest builds it. 32 children of a
// node are tested at once, one per lane, and visited nearest first; of leaves two at once, a point
// per lane. What is found goes to the warp's list (list.cuh).
// Map: a warp = a row of x, in the caller's order.
// Cost: a query on a surface or in a volume tests some hundred boxes and scans about 16 + k leaves.
// Guarantee: a node or leaf is left out only if its box distance, which is never above a computed
// distance to a point inside (point_box), is above that of place k - 1, or equal to it while no
// index inside is lower.
#pragma once

#include "../tree/target.cuh"
#include "list.cuh"

namespace pointloss {

template <int kSlots>
struct KWalk {
  const TreeTarget& target;
  const float3 q;
  WarpList<kSlots, float> list;

  __device__ __forceinline__ KWalk(const TreeTarget& t, float3 query, int k)
      : target(t), q(query), list(k) {}

  // visit(child) for those of 32 boxes that may matter, the nearest first. `box` is that of this
  // lane's child, if there is one.
  template <class Visit>
  __device__ __forceinline__ void visit_children(bool in, const Box& box, const Visit& visit) {
    const int lane = threadIdx.x % 32;
    const float distance = in ? point_box(q, box) : kInfinity;
    bool waits = in;
    for (;;) {
      waits = waits && list.wants(distance, box.least());
      const unsigned pending = __ballot_sync(kWholeWarp, waits);
      if (pending == 0) return;
      const int child = lane_of_least(pending, distance, box.least());
      waits = waits && lane != child;
      visit(child);
    }
  }

  // The points of a leaf, and in the upper half of the warp of the next one.
  __device__ __forceinline__ void visit_leaf_pair(int pair) {
    const int lane = threadIdx.x % 32, leaf = 2 * pair + lane / kLeafPoints;
    float d = kInfinity;
    int i = INT_MAX;
    if (leaf < target.leaf_count) {
      const float3 p = target.leaves[leaf].point(lane % kLeafPoints);
      i = target.leaves[leaf].index[lane % kLeafPoints];
      d = sum_of_squares(q.x - p.x, q.y - p.y, q.z - p.z);
    }
    list.offer(d, i);
  }

  // The leaves of a node, two by two: they are neighbours on the curve.
  __device__ __forceinline__ void visit_node(int node) {
    const int lane = threadIdx.x % 32, own = min(32 * node + lane, target.leaf_count - 1);
    const Box& a = target.leaf_boxes[own];
    const float4 lower = a.lower, upper = a.upper;
    // Of a pair the box of both, in its first lane.
    const auto low = [](float v) { return fminf(v, __shfl_xor_sync(kWholeWarp, v, 1)); };
    const auto high = [](float v) { return fmaxf(v, __shfl_xor_sync(kWholeWarp, v, 1)); };
    const int least = min(a.least(), __shfl_xor_sync(kWholeWarp, a.least(), 1));
    const Box box{make_float4(low(lower.x), low(lower.y), low(lower.z), __int_as_float(least)),
                  make_float4(high(upper.x), high(upper.y), high(upper.z), 0)};
    const bool in = lane % 2 == 0 && 32 * node + lane < target.leaf_count;
    visit_children(in, box, [&](int child) { visit_leaf_pair(16 * node + child / 2); });
  }

  // Nodes [first, first + 32).
  __device__ __forceinline__ void visit_nodes(int first) {
    const int own = first + static_cast<int>(threadIdx.x % 32);
    const Box box = target.node_boxes[min(own, target.node_count - 1)];
    visit_children(own < target.node_count, box, [&](int child) { visit_node(first + child); });
  }

  __device__ __forceinline__ void run() {
    for (int first = 0; first < target.upper_count; first += 32) {
      const int own = first + static_cast<int>(threadIdx.x % 32);
      const Box box = target.upper_nodes[min(own, target.upper_count - 1)].box();
      visit_children(own < target.upper_count, box,
                     [&](int child) { visit_nodes(32 * (first + child)); });
    }
  }
};

// Rows of p.x in the trees `targets` of p.y; p.dist_x and p.idx_x are [B, N, k].
template <int kSlots>
__global__ void __launch_bounds__(kQueryThreads)
    k_tree_kernel(const NearestPairParams p, const Forest targets, int k) {
  constexpr int kRows = kQueryThreads / 32;
  const int64_t blocks_per_cloud = ceil_div(p.N, kRows);
  for (int64_t task = blockIdx.x; task < p.B * blocks_per_cloud; task += gridDim.x) {
    const int64_t b = task / blocks_per_cloud;
    const int64_t i = task % blocks_per_cloud * kRows + threadIdx.x / 32;
    if (i >= p.N) continue;
    const int64_t n = valid_length(p.x_lengths, b, p.N), m = valid_length(p.y_lengths, b, p.M);
    float* row = p.dist_x + (b * p.N + i) * k;
    int64_t* index_row = p.idx_x + (b * p.N + i) * k;
    const bool bad = n < 0 || m < 0;
    if (bad || i >= n) {
      store_none(k, bad ? NAN : 0.f, row, index_row);
      continue;
    }
    const float3 q = load_point(p.x + 3 * b * p.N, i);
    if (isnan(q.x) || isnan(q.y) || isnan(q.z)) {
      store_none(k, NAN, row, index_row);
      continue;
    }
    const TreeTarget target(targets, p, targets.B + b);
    KWalk<kSlots> walk(target, q, k);
    walk.run();
    walk.list.store(row, index_row);
  }
}

// `index` holds the trees of all y, as launch_tree_index builds them.
inline cudaError_t launch_k_tree(const NearestPairParams& p, int k, void* index,
                                 cudaStream_t stream) {
  const unsigned grid = grid_size(p.B * ceil_div(p.N, kQueryThreads / 32));
  if (grid == 0) return cudaSuccess;
  Forest targets;
  lay_out(targets, p.B, 0, p.M, index);
  auto* kernel = k <= 32 ? &k_tree_kernel<1> : &k_tree_kernel<2>;
  return launch(kernel, {grid, kQueryThreads}, stream, p, targets, k);
}

}  // namespace pointloss
