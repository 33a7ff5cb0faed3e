// SPDX-License-Identifier: MIT
// Builds the boxes and discs of the trees of nearest_tree.cuh over the sorted points: leaves of 16
// points, nodes of 32 leaves, upper nodes of 32 nodes.
#pragma once

#include "nearest_tree_disc.cuh"
#include "nearest_tree_sort.cuh"

namespace pointloss {

// Orders the 32 points of a warp by their keys on a grid as fine as fits beside the lane number.
__device__ __forceinline__ float4 order_finely(const CurveFrame& frame, float4 p, bool present) {
  constexpr int kFineBits = 9;
  const unsigned lane = threadIdx.x % 32;
  unsigned key =
      present ? frame.key<kFineBits>(make_float3(p.x, p.y, p.z), kFineBits) << 5 : 0xffffffe0u;
  key |= lane;
#pragma unroll
  for (int run = 2; run <= 32; run *= 2) {
#pragma unroll
    for (int offset = run / 2; offset > 0; offset /= 2) {
      const unsigned other = __shfl_xor_sync(kWholeWarp, key, offset);
      const bool keep_lower = ((lane & run) == 0) == ((lane & offset) == 0);
      key = keep_lower ? min(key, other) : max(key, other);
    }
  }
  const int from = key & 31;
  return make_float4(__shfl_sync(kWholeWarp, p.x, from), __shfl_sync(kWholeWarp, p.y, from),
                     __shfl_sync(kWholeWarp, p.z, from), __shfl_sync(kWholeWarp, p.w, from));
}

struct NodeScratch {
  Disc discs[32];
  unsigned low[kNodePoints / 32][3], high[kNodePoints / 32][3], least[kNodePoints / 32];
};

// The box of a node from those of its warps, by the first warp; joins it to its upper node.
__device__ __forceinline__ void make_node(const Forest& f, const NodeScratch& s, int64_t cloud,
                                          int64_t node, int leaves) {
  constexpr int kWarps = kNodePoints / 32;
  const int lane = threadIdx.x % 32, axis = lane % 3;
  unsigned value = 0;
  if (lane < 7) {
    for (int w = 0; w < kWarps; ++w) {
      value = max(value, lane < 3 ? ~s.low[w][axis] : lane < 6 ? s.high[w][axis] : ~s.least[w]);
    }
    UpperNode* upper = &f.upper_nodes[f.within(cloud, f.uppers) + node / 32];
    atomicMax(lane < 3   ? &upper->not_lower[axis]
              : lane < 6 ? &upper->upper[axis]
                         : &upper->not_least,
              value);
  }
  const float corner = from_ordered(lane < 3 ? ~value : value);
  const float x = __shfl_sync(kWholeWarp, corner, 3), y = __shfl_sync(kWholeWarp, corner, 4),
              z = __shfl_sync(kWholeWarp, corner, 5);
  const float low_x = __shfl_sync(kWholeWarp, corner, 0),
              low_y = __shfl_sync(kWholeWarp, corner, 1),
              low_z = __shfl_sync(kWholeWarp, corner, 2);
  const unsigned not_least = __shfl_sync(kWholeWarp, value, 6);
  const Box box{make_float4(low_x, low_y, low_z, __uint_as_float(~not_least)),
                make_float4(x, y, z, 0)};
  const Disc disc = disc_of_discs(box, s.discs[min(lane, leaves - 1)], lane < leaves);
  if (lane != 0) return;
  const int64_t at = f.within(cloud, f.nodes) + node;
  f.node_boxes[at] = box;
  f.node_discs[at] = disc;
}

// The box of the points of a leaf, by its lanes.
__device__ __forceinline__ Box box_of_points(float4 p, bool present) {
  float4 lower = p, upper = present ? p : make_float4(-kInfinity, -kInfinity, -kInfinity, 0);
  lower.w = present ? p.w : __int_as_float(INT_MAX);
#pragma unroll
  for (int offset = 1; offset < kLeafPoints; offset *= 2) {
    lower.x = fminf(lower.x, __shfl_xor_sync(kWholeWarp, lower.x, offset));
    lower.y = fminf(lower.y, __shfl_xor_sync(kWholeWarp, lower.y, offset));
    lower.z = fminf(lower.z, __shfl_xor_sync(kWholeWarp, lower.z, offset));
    upper.x = fmaxf(upper.x, __shfl_xor_sync(kWholeWarp, upper.x, offset));
    upper.y = fmaxf(upper.y, __shfl_xor_sync(kWholeWarp, upper.y, offset));
    upper.z = fmaxf(upper.z, __shfl_xor_sync(kWholeWarp, upper.z, offset));
    lower.w = __int_as_float(
        min(__float_as_int(lower.w), __shfl_xor_sync(kWholeWarp, __float_as_int(lower.w), offset)));
  }
  return Box{lower, upper};
}

// A block makes a node: leaves, their boxes, and for each point its place near the other cloud.
template <int kThreads>
__global__ void __launch_bounds__(kThreads) tree_boxes_kernel(const Forest f) {
  static_assert(kThreads == kNodePoints, "a block makes a node");
  __shared__ CurveFrame frame, other_frame;
  __shared__ NodeScratch scratch;
  const BlockPlace place = block_place<kThreads>(f, blockIdx.x);
  const int count = f.count[place.cloud];
  if (place.first >= count) return;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t i = place.first + threadIdx.x, at = f.within(place.cloud, f.capacity) + i;
  const bool present = i < count;
  float4 p = make_float4(kInfinity, kInfinity, kInfinity, 0);
  if (present) p = f.sorted[at];
  copy_frame(f.frames[place.cloud], frame);
  copy_frame(f.frames[f.other(place.cloud)], other_frame);
  p = order_finely(frame, p, present);
  const float3 point = make_float3(p.x, p.y, p.z);
  const int64_t other = f.other(place.cloud);
  f.leaves[at / kLeafPoints].set(lane % kLeafPoints, point, __float_as_int(p.w));
  if (present) {
    const unsigned key =
        other_frame.key<kGridBits>(point, f.axis_bits) >> (3 * f.axis_bits - f.key_bits);
    f.guess[at] = static_cast<int>(f.starts[other * f.cells + key]) / kLeafPoints;
  }
  const Box box = box_of_points(p, present);
  const Disc disc = disc_of_points(box, point, present);
  if (lane % kLeafPoints == 0) {
    f.leaf_boxes[at / kLeafPoints] = box;
    f.leaf_discs[at / kLeafPoints] = disc;
    scratch.discs[threadIdx.x / kLeafPoints] = disc;
  }
  const unsigned low[3] = {warp_min(to_ordered(box.lower.x)), warp_min(to_ordered(box.lower.y)),
                           warp_min(to_ordered(box.lower.z))};
  const unsigned high[3] = {warp_max(to_ordered(box.upper.x)), warp_max(to_ordered(box.upper.y)),
                            warp_max(to_ordered(box.upper.z))};
  const unsigned least = warp_min(static_cast<unsigned>(box.least()));
  if (lane == 0) {
    for (int a = 0; a < 3; ++a) scratch.low[warp][a] = low[a], scratch.high[warp][a] = high[a];
    scratch.least[warp] = least;
  }
  __syncthreads();
  const int leaves =
      (min(count - static_cast<int>(place.first), kNodePoints) + kLeafPoints - 1) / kLeafPoints;
  if (warp == 0) make_node(f, scratch, place.cloud, place.first / kNodePoints, leaves);
}

}  // namespace pointloss
