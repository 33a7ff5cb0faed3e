// SPDX-License-Identifier: MIT
// Which queries of nearest_tree.cuh get a warp each.
//
// Problem: beside a cloud that is much smaller than theirs, the queries of a warp are as far apart
// as from their neighbours: no two want the same points, and the warp takes as long as all of them
// one after the other, long after all other warps have ended.
// Method: the leaves of such queries are listed when their boxes are made, and the first blocks of
// the query kernel answer them, all lanes of a warp asking for one query, so that what is wanted by
// a warp is wanted by its query. Where the list is full, a leaf is answered like any other.
//
// All of x in a blob of a hundredth, far from y, 131072 points: 315 us instead of 346, in a
// fiftieth 313 instead of 328 (H200); the query kernel issues in 44 % of its slots instead of 39.
// Leaves up to twice as far away take 5 us longer or less, but 16384 points in a blob a fifth more;
// in a kernel of its own, before, 362 and 382. Not for a million points, whose warps have a lane a
// query (a tenth slower), nor for batches (4 % slower): there the longest warps do not end alone.
#pragma once

#include "nearest_tree_sort.cuh"

namespace pointloss {

// Whether the first cloud is much smaller than the second: its grid has more cells a length.
__device__ __forceinline__ bool much_smaller(const CurveFrame& cloud, const CurveFrame& other) {
  constexpr float kMuchSmaller = 4;
  return cloud.scale > kMuchSmaller * other.scale;
}

// Whether the box of a leaf is beside the grid of a much smaller cloud, no farther away than twice
// its own diagonal, which is longer than an eighth of the grid.
__device__ __forceinline__ bool is_beside(const Box& box, const CurveFrame& smaller) {
  const float extent = kFrameBins / smaller.scale;
  float diagonal = 0, apart = 0;  // squares
  const auto axis = [&](float low, float high, float from) {
    const float d = fmaxf(0.f, fmaxf(from - high, low - (from + extent)));
    diagonal = fmaf(high - low, high - low, diagonal), apart = fmaf(d, d, apart);
  };
  axis(box.lower.x, box.upper.x, smaller.lower[0]);
  axis(box.lower.y, box.upper.y, smaller.lower[1]);
  axis(box.lower.z, box.upper.z, smaller.lower[2]);
  return apart < 4 * diagonal && extent * extent < 64 * diagonal;
}

// By the block that has made leaves [first, first + leaves) of a cloud, a thread a leaf: lists
// those that are beside the other cloud.
__device__ __forceinline__ void list_lone(const Forest& f, int64_t cloud, int64_t first, int leaves,
                                          const CurveFrame& smaller) {
  const int64_t start = f.within(cloud, f.capacity) / kLeafPoints + first;
  if (threadIdx.x >= leaves || !is_beside(f.leaf_boxes[start + threadIdx.x], smaller)) return;
  const int slot = atomicAdd(f.lone_count, 1);
  if (slot >= kLoneLeaves) return;
  f.lone[slot] = static_cast<int>(start + threadIdx.x);
  for (int k = 0; k < kLeafPoints; ++k) {
    f.guess[(start + threadIdx.x) * kLeafPoints + k] = kAskedAlone;
  }
}

}  // namespace pointloss
