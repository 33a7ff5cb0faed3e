// SPDX-License-Identifier: MIT
// Builds the boxes and cylinders of the trees over the sorted points.
//
// Map: a block per node, a thread per point. The block first orders its points by finer keys, then
// makes leaves, their bounds, the bounds of the node, and for every point its seed: the leaf of the
// other cloud at the same place of the curve, where its search begins.
#pragma once

#include "sort.cuh"

namespace pointloss {

struct NodeScratch {
  Cylinder cylinders[32];
  unsigned words[2][kNodePoints];  // of the network that sorts the block
  float4 points[kNodePoints];
  unsigned low[kNodePoints / 32][3], high[kNodePoints / 32][3], least[kNodePoints / 32];
};

// Sorts a word of each thread, in runs of kRun threads, by a bitonic network.
template <int kRun>
__device__ __forceinline__ unsigned sort_words(unsigned word, NodeScratch& s) {
  int buffer = 0;
#pragma unroll
  for (int run = 2; run <= kRun; run *= 2) {
#pragma unroll
    for (int offset = run / 2; offset > 0; offset /= 2) {
      unsigned other;
      if (offset >= 32) {
        s.words[buffer][threadIdx.x] = word;
        __syncthreads();
        other = s.words[buffer][threadIdx.x ^ offset];
        buffer ^= 1;  // so that one barrier per step is enough
      } else {
        other = __shfl_xor_sync(kWholeWarp, word, offset);
      }
      const bool rises = run == kRun || (threadIdx.x & run) == 0;
      const bool keep_lower = rises == ((threadIdx.x & offset) == 0);
      word = keep_lower ? min(word, other) : max(word, other);
    }
  }
  return word;
}

// The least `low` and the largest `high` of the threads of a block.
__device__ __forceinline__ uint2 block_range(NodeScratch& s, int axis, unsigned low,
                                             unsigned high) {
  constexpr int kWarps = kNodePoints / 32;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  low = warp_min(low), high = warp_max(high);
  if (lane == 0) s.low[warp][axis] = low, s.high[warp][axis] = high;
  __syncthreads();
  return make_uint2(warp_min(s.low[lane % kWarps][axis]), warp_max(s.high[lane % kWarps][axis]));
}

// Key of a point on a grid over the bounding box of its node.
__device__ __forceinline__ unsigned key_in_node(NodeScratch& s, const HilbertSteps& steps, float4 p,
                                                bool present) {
  const float at[3] = {p.x, p.y, p.z};
  BoxGrid<kNodeBits> grid;
  float extent = FLT_MIN;
#pragma unroll
  for (int a = 0; a < 3; ++a) {
    const unsigned bits = to_ordered(at[a]);
    const uint2 range = block_range(s, a, present ? bits : ~0u, present ? bits : 0);
    grid.lower[a] = from_ordered(range.x);
    extent = fmaxf(extent, from_ordered(range.y) - grid.lower[a]);
  }
  grid.scale = (1 << kNodeBits) / extent;
  return grid.key(steps, p.x, p.y, p.z);
}

// Orders the points of a node by their keys on the cloud's finest grid, which refines their order
// by cells: within each warp if no cell is crowded, else within the block. If cells were sorted
// again that grid is too coarse, and the node gets its own.
__device__ __forceinline__ float4 order_points(NodeScratch& s, const CurveFrame& frame, float4 p,
                                               bool present, Crowding crowding) {
  constexpr int kKeyBits = 3 * kGridBits, kWarpKeyBits = 27;
  constexpr int kBlockKeyBits = 22;  // and one for the absent
  static_assert(kNodePoints <= 1 << (31 - kBlockKeyBits), "key and place share a word");
  static_assert(3 * kNodeBits <= kBlockKeyBits, "key and place share a word");
  s.points[threadIdx.x] = p;
  __syncwarp();
  unsigned key;
  if (crowding == kRefined) {
    key = key_in_node(s, frame.steps, p, present);
  } else {
    key = frame.key<kGridBits>(make_float3(p.x, p.y, p.z), kGridBits);
    if (crowding == kEven) {
      key = present ? key >> (kKeyBits - kWarpKeyBits) : (1u << kWarpKeyBits) - 1;
      const int from = sort_words<32>((key << 5) + threadIdx.x % 32, s) % 32;
      return s.points[(threadIdx.x & ~31) + from];
    }
    // As many bits as fit beside the place, from the first in which the node's keys differ.
    const uint2 range = block_range(s, 0, present ? key : ~0u, present ? key : 0);
    key = (key - range.x) >> max(0, 32 - __clz(range.y - range.x) - kBlockKeyBits);
  }
  if (!present) key = 1u << kBlockKeyBits;
  return s.points[sort_words<kNodePoints>(key * kNodePoints + threadIdx.x, s) % kNodePoints];
}

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
  const auto at = [&](int k) { return __shfl_sync(kWholeWarp, corner, k); };
  const float low_x = at(0), low_y = at(1), low_z = at(2), x = at(3), y = at(4), z = at(5);
  const unsigned not_least = __shfl_sync(kWholeWarp, value, 6);
  const Box box{make_float4(low_x, low_y, low_z, __uint_as_float(~not_least)),
                make_float4(x, y, z, 0)};
  const Cylinder& part = s.cylinders[min(lane, leaves - 1)];
  const Cylinder cylinder = bounding_cylinder<32, false>(box, part, lane < leaves);
  if (lane != 0) return;
  f.node_boxes[f.within(cloud, f.nodes) + node] = box;
  f.node_cylinders[f.within(cloud, f.nodes) + node] = cylinder;
}

// The box of the points of a leaf, by its lanes.
__device__ __forceinline__ Box box_of_points(float4 p, bool present) {
  float4 lower = p, upper = present ? p : make_float4(-kInfinity, -kInfinity, -kInfinity, 0);
  lower.w = present ? p.w : __int_as_float(INT_MAX);
  lower.x = group_min<kLeafPoints>(lower.x), upper.x = group_max<kLeafPoints>(upper.x);
  lower.y = group_min<kLeafPoints>(lower.y), upper.y = group_max<kLeafPoints>(upper.y);
  lower.z = group_min<kLeafPoints>(lower.z), upper.z = group_max<kLeafPoints>(upper.z);
  lower.w = __int_as_float(group_min<kLeafPoints>(__float_as_int(lower.w)));
  return Box{lower, upper};
}

// About where on the curve of a cloud a point would be: as far into its cell as its finest key.
__device__ __forceinline__ int place_on_curve(const Forest& f, int64_t cloud,
                                              const CurveFrame& frame, float3 point) {
  const int rest = 3 * kGridBits - f.key_bits;
  const unsigned key = frame.key<kGridBits>(point, kGridBits), cell = key >> rest;
  const unsigned* starts = f.cells_of(cloud);
  const unsigned start = starts[cell];
  const unsigned end = cell + 1 < f.cells ? starts[cell + 1] : f.count[cloud];
  const unsigned into = key & ((1u << rest) - 1);
  return start + static_cast<int>(static_cast<uint64_t>(end - start) * into >> rest);
}

// A block makes a node: leaves, their boxes, and for each point its place near the other cloud,
// which is one of `targets`.
__global__ void __launch_bounds__(kNodePoints)
    tree_boxes_kernel(const Forest f, const Forest targets) {
  __shared__ CurveFrame frame, other_frame;
  __shared__ NodeScratch scratch;
  follow_previous_kernel();
  const BlockPlace place = block_place<kNodePoints>(f, blockIdx.x);
  const int count = f.count[place.cloud];
  if (place.first >= count) return;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t i = place.first + threadIdx.x, at = f.within(place.cloud, f.capacity) + i;
  const bool present = i < count;
  float4 p = make_float4(kInfinity, kInfinity, kInfinity, 0);
  if (present) p = f.sorted[at];
  const int64_t other = f.other(place.cloud), node = place.first / kNodePoints;
  const Crowding crowding = f.crowding[f.within(place.cloud, f.nodes) + node];
  copy_frame(f.frames[place.cloud], frame);
  copy_frame(targets.frames[other], other_frame);
  p = order_points(scratch, frame, p, present, crowding);
  const float3 point = make_float3(p.x, p.y, p.z);
  f.leaves[at / kLeafPoints].set(lane % kLeafPoints, point, __float_as_int(p.w));
  if (present && targets.size(other) > 0) {
    f.seed[at] = place_on_curve(targets, other, other_frame, point) / kLeafPoints;
  }
  const Box box = box_of_points(p, present);
  const Cylinder cylinder = bounding_cylinder<kLeafPoints, true>(box, {point}, present);
  if (lane % kLeafPoints == 0) {
    f.leaf_boxes[at / kLeafPoints] = box;
    f.leaf_cylinders[at / kLeafPoints] = cylinder;
    scratch.cylinders[threadIdx.x / kLeafPoints] = cylinder;
  }
  __syncthreads();  // the bounds by warps before the sorting have been read
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
  if (warp == 0) make_node(f, scratch, place.cloud, node, leaves);
}

}  // namespace pointloss
