// SPDX-License-Identifier: MIT
// The trees of a batch of pairs of clouds: their sizes, their memory, and who works on what.
//
// A tree has leaves of kLeafPoints points that are neighbours on the Hilbert curve, nodes of 32
// leaves, and upper nodes of 32 nodes, each with a bounding box and (but for upper nodes) a
// bounding cylinder. Sizes alone fix the layout: 48 bytes per point and 4 per cell of the curve.
#pragma once

#include <algorithm>
#include <cstddef>

#include "../../../common/arena.h"
#include "../../shared/launch.cuh"
#include "../curve_frame.cuh"
#include "../cylinder.cuh"
#include "../pairs.cuh"

namespace pointloss {

constexpr int kNodePoints = 32 * kLeafPoints;

using TreeLeaf = Leaf<int32_t>;

// How crowded the cells of a node are: at most kMostUnordered points in a cell, at most kMostInCell
// (the whole block orders the node), or more (the cell was sorted again by refine.cuh).
enum Crowding : int { kEven, kUneven, kRefined };

// Points [start, start + count) of Forest::sorted, to be sorted in a frame of their own.
struct alignas(16) Segment {
  int64_t start;
  int count;  // 0 until the rest is written
};

// Segments in the order in which they were found. Blocks take the next one by its ticket.
struct SegmentQueue {
  int pushed, popped;  // tickets
  int pending;         // segments that are not done
};

// An upper node, grown by atomics: ordered bits, kept so that all maxima start from 0.
struct UpperNode {
  unsigned not_lower[3], upper[3], not_least;

  __device__ __forceinline__ Box box() const {
    return Box{
        make_float4(from_ordered(~not_lower[0]), from_ordered(~not_lower[1]),
                    from_ordered(~not_lower[2]), __uint_as_float(~not_least)),
        make_float4(from_ordered(upper[0]), from_ordered(upper[1]), from_ordered(upper[2]), 0)};
  }
};

// The clouds of a batch, first all x, then all y, and the arrays of their trees. Sizes of the y
// side differ from those of the x side, so every per-cloud array has an offset of its own.
struct Forest {
  int64_t B, N, M;
  int64_t capacity[2];  // points of a cloud, in whole nodes
  int64_t nodes[2], uppers[2];
  int key_bits, axis_bits;
  int64_t cells, tiles;                 // of a cloud
  int64_t first_in_cells, cell_clouds;  // clouds that have cells: not a side without points
  CurveFrame* frames;
  int* count;        // points in the tree of a cloud
  unsigned* zeroed;  // what is cleared before a build: from the ticket to the starts
  unsigned* ticket;  // of the scan
  SegmentQueue* queue;
  Segment* segments;
  int segment_most;    // found beyond these, a segment is left as it is, which only costs speed
  Crowding* crowding;  // of a node: its most crowded cell
  unsigned long long* tile_state;
  UpperNode* upper_nodes;
  unsigned* starts;  // counts, then starts of the cells
  uint2* key_rank;   // of a point
  float4* sorted;    // by cell; w holds the index
  TreeLeaf* leaves;
  Box *leaf_boxes, *node_boxes;
  Cylinder *leaf_cylinders, *node_cylinders;
  int* seed;  // leaf of the other cloud near a point, in curve order
  size_t zeroed_bytes;

  __host__ __device__ int side(int64_t cloud) const { return cloud < B ? 0 : 1; }
  __host__ __device__ int64_t within(int64_t cloud, const int64_t (&size)[2]) const {
    return cloud < B ? cloud * size[0] : B * size[0] + (cloud - B) * size[1];
  }
  __host__ __device__ int64_t size(int64_t cloud) const { return cloud < B ? N : M; }
  __device__ unsigned* cells_of(int64_t cloud) const {
    return starts + (cloud - first_in_cells) * cells;
  }
  __host__ __device__ int64_t other(int64_t cloud) const {
    return cloud < B ? cloud + B : cloud - B;
  }
};

// Lays the forest out from `base`, which may be null; returns the bytes it takes.
inline size_t lay_out(Forest& f, int64_t B, int64_t N, int64_t M, void* base) {
  f.B = B, f.N = N, f.M = M;
  const int64_t most = N > M ? N : M;
  for (int side = 0; side < 2; ++side) {
    f.nodes[side] = ceil_div(side == 0 ? N : M, kNodePoints);
    f.capacity[side] = f.nodes[side] * kNodePoints;
    f.uppers[side] = ceil_div(f.nodes[side], 32);
  }
  f.key_bits = kLeastKeyBits;
  while (f.key_bits < kMostKeyBits && (int64_t{1} << f.key_bits) < 2 * most) ++f.key_bits;
  f.axis_bits = (f.key_bits + 2) / 3;
  f.cells = int64_t{1} << f.key_bits;
  f.tiles = f.cells / kScanCells;
  f.first_in_cells = N > 0 ? 0 : B;
  f.cell_clouds = (N > 0 ? B : 0) + (M > 0 ? B : 0);
  const int64_t points = B * (f.capacity[0] + f.capacity[1]);
  const int64_t nodes = B * (f.nodes[0] + f.nodes[1]);
  Arena<256> arena(base);
  f.segment_most = static_cast<int>(std::min<int64_t>(points / 64, 1 << 20));
  arena.take(f.ticket, 1);
  f.zeroed = f.ticket;
  arena.take(f.queue, 1);
  arena.take(f.segments, f.segment_most);
  arena.take(f.crowding, nodes);
  arena.take(f.tile_state, f.cell_clouds * f.tiles);
  arena.take(f.upper_nodes, B * (f.uppers[0] + f.uppers[1]));
  arena.take(f.starts, f.cell_clouds * f.cells);
  f.zeroed_bytes = arena.used();
  arena.take(f.frames, 2 * B);
  arena.take(f.count, 2 * B);
  arena.take(f.key_rank, B * (N + M));
  arena.take(f.sorted, points);
  arena.take(f.leaves, points / kLeafPoints);
  arena.take(f.leaf_boxes, points / kLeafPoints);
  arena.take(f.leaf_cylinders, points / kLeafPoints);
  arena.take(f.node_boxes, nodes);
  arena.take(f.node_cylinders, nodes);
  arena.take(f.seed, points);
  return arena.used();
}

// Block `task` of a launch that gives every cloud of size s ceil(s / kStep) blocks.
struct BlockPlace {
  int64_t cloud, first;
};

template <int kStep>
__host__ __device__ __forceinline__ BlockPlace block_place(const Forest& f, int64_t task) {
  const int64_t x_blocks = ceil_div(f.N, kStep), y_blocks = ceil_div(f.M, kStep);
  if (task < f.B * x_blocks) return {task / x_blocks, task % x_blocks * kStep};
  task -= f.B * x_blocks;
  return {f.B + task / y_blocks, task % y_blocks * kStep};
}

template <int kStep>
int64_t block_count(const Forest& f) {
  return f.B * (ceil_div(f.N, kStep) + ceil_div(f.M, kStep));
}

}  // namespace pointloss
