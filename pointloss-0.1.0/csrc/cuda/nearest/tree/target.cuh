// SPDX-License-Identifier: MIT
// A tree as the target of a walk.
#pragma once

#include "../walk.cuh"
#include "forest.cuh"

namespace pointloss {

struct TreeTarget {
  const TreeLeaf* leaves;
  const Box *leaf_boxes, *node_boxes;
  const Cylinder *leaf_cylinders, *node_cylinders;
  const UpperNode* upper_nodes;
  int leaf_count, node_count, upper_count;
  const float* points;

  static constexpr bool kHasCylinders = true;

  __device__ __forceinline__ float3 point(int index) const { return load_point(points, index); }
  __device__ __forceinline__ int nearest_leaf(float3 low, float3 high) const;
  __device__ __forceinline__ TreeTarget(const Forest& f, const NearestPairParams& p,
                                        int64_t cloud) {
    const int64_t leaf = f.within(cloud, f.capacity) / kLeafPoints, node = f.within(cloud, f.nodes);
    leaves = f.leaves + leaf;
    leaf_boxes = f.leaf_boxes + leaf, leaf_cylinders = f.leaf_cylinders + leaf;
    node_boxes = f.node_boxes + node, node_cylinders = f.node_cylinders + node;
    upper_nodes = f.upper_nodes + f.within(cloud, f.uppers);
    leaf_count = f.size(cloud) == 0 ? 0 : (f.count[cloud] + kLeafPoints - 1) / kLeafPoints;
    node_count = (leaf_count + 31) / 32;
    upper_count = (node_count + 31) / 32;
    points = cloud_rows(p, cloud).points;
  }
};

// Which of the first 32 of `count` boxes is nearest to the box of a warp's queries.
__device__ __forceinline__ int warp_nearest_box(float3 low, float3 high, const Box* boxes,
                                                int count) {
  const int lane = threadIdx.x % 32;
  const unsigned in = __ballot_sync(kWholeWarp, lane < count);
  return lane_of_least(in, box_box(low, high, boxes[min(lane, count - 1)]));
}

// A leaf near a warp's queries: the nearest in the nearest node in the nearest upper node.
__device__ __forceinline__ int TreeTarget::nearest_leaf(float3 low, float3 high) const {
  const int lane = threadIdx.x % 32;
  float distance = kInfinity;
  int upper = 0;
  for (int k = lane; k < upper_count; k += 32) {
    const float other = box_box(low, high, upper_nodes[k].box());
    if (other < distance) distance = other, upper = k;
  }
  const int node = 32 * __shfl_sync(kWholeWarp, upper, lane_of_least(kWholeWarp, distance));
  const int leaf = 32 * (node + warp_nearest_box(low, high, node_boxes + node, node_count - node));
  return leaf + warp_nearest_box(low, high, leaf_boxes + leaf, leaf_count - leaf);
}

// Upper nodes, 32 at a time, the nearest of them first.
template <int kLanes, class Far>
__device__ __forceinline__ void visit_uppers(Walk<TreeTarget, kLanes>& walk, Far far) {
  const TreeTarget& target = walk.target;
  const int lane = threadIdx.x % 32;
  for (int first = 0; first < target.upper_count; first += 32) {
    const bool in = first + lane < target.upper_count;
    const Box box = target.upper_nodes[in ? first + lane : 0].box();
    const float distance = in ? box_box(walk.low, walk.high, box) : kInfinity;
    bool wanted = walk.warp_wants(in, distance, box) && (!far || walk.far_test.wants(box));
    unsigned pending = __ballot_sync(kWholeWarp, wanted);
    while (pending != 0) {
      const int child = lane_of_least(pending, distance, box.least());
      walk.visit_nodes(far, 32 * (first + child));
      wanted = walk.warp_wants(wanted && lane != child, distance, box) &&
               (!far || walk.far_test.wants(box));
      pending = __ballot_sync(kWholeWarp, wanted);
    }
  }
}

}  // namespace pointloss
