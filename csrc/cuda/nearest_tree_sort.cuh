// SPDX-License-Identifier: MIT
// Sorts the clouds of a batch of pairs along the Hilbert curve, and holds the memory of their
// trees.
//
// Kernels, in this order, each over all clouds: frames (one block a cloud), counting (a thread a
// point), scanning of the counts (a block per 4096 cells, decoupled look-back after Merrill and
// Garland, Single-pass Parallel Prefix Scan with Decoupled Look-back, 2016), scattering (a thread a
// point), refining (nearest_tree_refine.cuh), and the boxes of nearest_tree_boxes.cuh. A counting
// sort by cells instead of a radix sort of keys: cells number two to four times the points, so most
// hold few. Cells that hold many are sorted again, in frames of their own, and the boxes kernel
// orders the points of a node, or of each warp where no cell is crowded, by keys in their own box.
#pragma once

#include <algorithm>
#include <cstddef>

#include "../common/arena.h"
#include "launch.cuh"
#include "nearest_tree_disc.cuh"
#include "nearest_tree_frame.cuh"
#include "nearest_tree_pair.cuh"

namespace pointloss {

constexpr int kNodePoints = 32 * kLeafPoints;
constexpr int kScanCells = 4096;  // of a block of the scan: four a thread
constexpr int kBuildThreads = 256;
constexpr int kLoneLeaves = 132;  // the list is of that many
constexpr int kAskedAlone = -1;

using TreeLeaf = Leaf<int32_t>;

// What the cells of a node ask for, from which on its points are ordered by the whole block, and
// what is sorted again by nearest_tree_refine.cuh.
enum Crowding : int { kEven, kCrowded, kRefined };
constexpr unsigned kMostUnordered = 48, kMostInCell = 256;

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
  int* lone_count;  // leaves that asked for a place among the lone ones
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
  Disc *leaf_discs, *node_discs;
  int* guess;               // leaf of the other cloud near a point, in curve order, or kAskedAlone
  int* lone;                // leaves whose points get a warp each, see nearest_tree_lone.cuh
  int64_t lone_clouds = 0;  // clouds that may have such leaves, the first ones
  size_t zeroed_bytes;

  __host__ __device__ int side(int64_t cloud) const { return cloud < B ? 0 : 1; }
  __host__ __device__ int64_t within(int64_t cloud, const int64_t (&size)[2]) const {
    return cloud < B ? cloud * size[0] : B * size[0] + (cloud - B) * size[1];
  }
  __host__ __device__ int64_t size(int64_t cloud) const { return cloud < B ? N : M; }
  // The cloud that has a leaf.
  __device__ int64_t cloud_of(int64_t leaf) const {
    const int64_t point = leaf * kLeafPoints, of_x = B * capacity[0];
    return point < of_x ? point / capacity[0] : B + (point - of_x) / capacity[1];
  }
  __device__ unsigned* cells_of(int64_t cloud) const {
    return starts + (cloud - first_in_cells) * cells;
  }
  __host__ __device__ int64_t other(int64_t cloud) const {
    return cloud < B ? cloud + B : cloud - B;
  }
};

// Lays the forest out from `base`, which may be null; returns the bytes it takes.
inline size_t lay_out(Forest& f, int64_t B, int64_t N, int64_t M, char* base) {
  f.B = B, f.N = N, f.M = M;
  const int64_t most = N > M ? N : M;
  for (int side = 0; side < 2; ++side) {
    f.nodes[side] = ceil_div(side == 0 ? N : M, kNodePoints);
    f.capacity[side] = f.nodes[side] * kNodePoints;
    f.uppers[side] = ceil_div(f.nodes[side], 32);
  }
  constexpr int kLeastKeyBits = 12, kMostKeyBits = 27;
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
  arena.take(f.lone_count, 1);
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
  arena.take(f.leaf_discs, points / kLeafPoints);
  arena.take(f.node_boxes, nodes);
  arena.take(f.node_discs, nodes);
  arena.take(f.guess, points);
  arena.take(f.lone, kLoneLeaves);
  return arena.used();
}

// A cloud of the batch as its caller gave it.
struct CloudRows {
  const float* points;
  float* dist;
  int64_t* idx;
  int64_t size, valid;  // valid is -1 where a length of the pair is out of range
};

__device__ __forceinline__ CloudRows cloud_rows(const NearestPairParams& p, int64_t cloud) {
  const bool is_x = cloud < p.B;
  const int64_t b = is_x ? cloud : cloud - p.B;
  const int64_t n = valid_length(p.x_lengths, b, p.N), m = valid_length(p.y_lengths, b, p.M);
  CloudRows rows;
  rows.size = is_x ? p.N : p.M;
  rows.points = (is_x ? p.x : p.y) + 3 * b * rows.size;
  rows.dist = is_x ? p.dist_x + b * p.N : p.dist_y == nullptr ? nullptr : p.dist_y + b * p.M;
  rows.idx = is_x ? p.idx_x + b * p.N : p.dist_y == nullptr ? nullptr : p.idx_y + b * p.M;
  rows.valid = n < 0 || m < 0 ? -1 : is_x ? n : m;
  return rows;
}

// For a kernel in the middle of a KernelChain. What it reads of others comes after this.
__device__ __forceinline__ void follow_previous_kernel() {
  let_next_kernel_start();
  wait_for_previous_kernel();
}

constexpr int kClearedPerBlock = 1 << 16;  // bytes

// A block a cloud makes its frame; the others clear what must be zero.
template <int kThreads>
__global__ void __launch_bounds__(kThreads)
    tree_frames_kernel(const NearestPairParams p, const Forest f) {
  __shared__ FrameScratch scratch[1];
  __shared__ CurveFrame frame[1];
  follow_previous_kernel();
  if (blockIdx.x >= 2 * p.B) {
    const size_t first = (blockIdx.x - 2 * p.B) * size_t{kClearedPerBlock};
    const size_t last =
        first + kClearedPerBlock < f.zeroed_bytes ? first + kClearedPerBlock : f.zeroed_bytes;
    for (size_t k = first + 16 * threadIdx.x; k < last; k += 16 * kThreads) {
      *reinterpret_cast<uint4*>(reinterpret_cast<char*>(f.zeroed) + k) = make_uint4(0, 0, 0, 0);
    }
    return;
  }
  const CloudRows rows = cloud_rows(p, blockIdx.x);
  const float* const points[1] = {rows.points};
  const int64_t counts[1] = {rows.valid};
  make_frames<kThreads, 1>(points, counts, scratch, frame);
  constexpr int kWords = sizeof(CurveFrame) / 4;
  for (int k = threadIdx.x; k < kWords; k += kThreads) {
    reinterpret_cast<int*>(&f.frames[blockIdx.x])[k] = reinterpret_cast<const int*>(frame)[k];
  }
}

// Block `task` of a launch that gives every cloud of size s ceil(s / kStep) blocks.
struct BlockPlace {
  int64_t cloud, first;
};

template <int kStep>
__host__ __device__ __forceinline__ BlockPlace block_place(const Forest& f, int64_t task) {
  const int64_t x_blocks = (f.N + kStep - 1) / kStep, y_blocks = (f.M + kStep - 1) / kStep;
  if (task < f.B * x_blocks) return {task / x_blocks, task % x_blocks * kStep};
  task -= f.B * x_blocks;
  return {f.B + task / y_blocks, task % y_blocks * kStep};
}

template <int kStep>
int64_t block_count(const Forest& f) {
  return f.B * (ceil_div(f.N, kStep) + ceil_div(f.M, kStep));
}

// A copy in shared memory of the frame of a cloud, by the whole block; ends with a barrier.
__device__ __forceinline__ void copy_frame(const CurveFrame& from, CurveFrame& to) {
  for (int k = threadIdx.x; k < int(sizeof(CurveFrame) / 4); k += blockDim.x) {
    reinterpret_cast<int*>(&to)[k] = reinterpret_cast<const int*>(&from)[k];
  }
  __syncthreads();
}

constexpr unsigned kNoKey32 = 0xffffffffu;

// Adds 1 to counters[key], by some lanes of a warp, and returns what was there. Lanes with the key
// of the first of them go together, and so on while there are such: points in one place would queue
// up for its counter.
__device__ __forceinline__ unsigned count_together(unsigned* counters, unsigned key) {
  const unsigned active = __activemask(), lane = threadIdx.x % 32;
  unsigned remaining = active, group = 1u << lane, found;
  do {
    const int first = __ffs(remaining) - 1;
    found = __ballot_sync(active, key == __shfl_sync(active, key, first)) & remaining;
    if ((found >> lane) & 1) group = found;
    remaining &= ~found;
  } while ((found & (found - 1)) != 0 && remaining != 0);
  const int leader = __ffs(group) - 1;
  unsigned before = 0;
  if (static_cast<int>(lane) == leader) before = atomicAdd(counters + key, __popc(group));
  return __shfl_sync(active, before, leader) + rank_in(group);
}

// Counts the points of each cell, and answers the rows that no search answers.
template <int kThreads>
__global__ void __launch_bounds__(kThreads)
    tree_count_kernel(const NearestPairParams p, const Forest f) {
  __shared__ CurveFrame frame;
  const BlockPlace place = block_place<kThreads>(f, blockIdx.x);
  const CloudRows rows = cloud_rows(p, place.cloud);
  const int64_t i = place.first + threadIdx.x;
  float3 point = make_float3(0, 0, 0);
  if (i < rows.size) point = load_point(rows.points, i);
  follow_previous_kernel();
  copy_frame(f.frames[place.cloud], frame);
  if (i >= rows.size) return;
  uint2 key_rank = make_uint2(kNoKey32, 0);
  float dist = 0;
  if (rows.valid < 0) {
    dist = NAN;
  } else if (i < rows.valid) {
    if (is_finite(point)) {
      key_rank.x = frame.key<kGridBits>(point, f.axis_bits) >> (3 * f.axis_bits - f.key_bits);
      key_rank.y = count_together(f.cells_of(place.cloud), key_rank.x);
    }
    const bool nan = point.x != point.x || point.y != point.y || point.z != point.z;
    dist = nan ? NAN : kInfinity;
  }
  f.key_rank[(place.cloud < p.B ? 0 : p.B * (p.N - p.M)) + place.cloud * rows.size + i] = key_rank;
  if (key_rank.x == kNoKey32 && rows.dist != nullptr) rows.dist[i] = dist, rows.idx[i] = -1;
}

// Queues a segment if there is room. What it holds must be visible to the device.
__device__ __forceinline__ void push_segment(const Forest& f, int64_t start, unsigned count) {
  const int ticket = atomicAdd(&f.queue->pushed, 1);
  if (ticket >= f.segment_most) return;
  atomicAdd(&f.queue->pending, 1);
  f.segments[ticket].start = start;
  __threadfence();
  atomicExch(&f.segments[ticket].count, static_cast<int>(count));
}

// Exclusive sums of the counts of each cloud, from 0. A tile's state is its own sum (1) or the sum
// up to its end (2) in the upper half, so that one load sees both; a ticket orders the tiles, so
// that a block waits only for blocks that run already.
template <int kThreads>
__global__ void __launch_bounds__(kThreads) tree_scan_kernel(const Forest f) {
  static_assert(kThreads * 4 == kScanCells, "four cells a thread");
  __shared__ unsigned warp_total[kThreads / 32], tile_ticket, before;
  follow_previous_kernel();
  const int tid = threadIdx.x, lane = tid % 32, warp = tid / 32;
  if (tid == 0) tile_ticket = atomicAdd(f.ticket, 1u);
  __syncthreads();
  const int64_t tile = tile_ticket, in_cloud = tile % f.tiles;
  const int64_t cloud = f.first_in_cells + tile / f.tiles;
  uint4* cells = reinterpret_cast<uint4*>(f.starts + tile * kScanCells);
  const uint4 counts = cells[tid];
  const unsigned sum = counts.x + counts.y + counts.z + counts.w;
  const unsigned inclusive = warp_inclusive_sum(sum);
  if (lane == 31) warp_total[warp] = inclusive;
  __syncthreads();
  const unsigned total = lane < kThreads / 32 ? warp_total[lane] : 0;
  if (warp == 0) {
    const unsigned own = warp_sum(total);
    volatile unsigned long long* state = f.tile_state + tile;
    const auto publish = [&](unsigned kind, unsigned value) {
      if (lane == 0) *state = (static_cast<unsigned long long>(kind) << 32) | value;
    };
    unsigned prefix = 0;
    if (in_cloud > 0) {
      publish(1, own);
      for (int64_t back = 0;; back += 32) {  // looks at 32 earlier tiles at a time
        const bool in = back + lane < in_cloud;
        unsigned long long seen;
        do {
          seen = in ? state[-1 - back - lane] : 2ull << 32;
        } while (__any_sync(kWholeWarp, seen == 0));
        const unsigned complete = __ballot_sync(kWholeWarp, (seen >> 32) == 2);
        const int until = complete == 0 ? 31 : __ffs(complete) - 1;
        prefix += warp_sum(in && lane <= until ? static_cast<unsigned>(seen) : 0);
        if (complete != 0) break;
      }
    }
    publish(2, prefix + own);
    if (lane == 0) {
      before = prefix;
      if (in_cloud == f.tiles - 1) f.count[cloud] = static_cast<int>(prefix + own);
    }
  }
  __syncthreads();
  const unsigned run = before + warp_sum(lane < warp ? total : 0) + inclusive - sum;
  const uint4 starts = make_uint4(run, run + counts.x, run + counts.x + counts.y,
                                  run + counts.x + counts.y + counts.z);
  cells[tid] = starts;
  if (max(max(counts.x, counts.y), max(counts.z, counts.w)) <= kMostInCell) return;
  const int64_t base = f.within(cloud, f.capacity);
  if (counts.x > kMostInCell) push_segment(f, base + starts.x, counts.x);
  if (counts.y > kMostInCell) push_segment(f, base + starts.y, counts.y);
  if (counts.z > kMostInCell) push_segment(f, base + starts.z, counts.z);
  if (counts.w > kMostInCell) push_segment(f, base + starts.w, counts.w);
}

// Points to their places on the curve.
template <int kThreads>
__global__ void __launch_bounds__(kThreads)
    tree_scatter_kernel(const NearestPairParams p, const Forest f) {
  follow_previous_kernel();
  const BlockPlace place = block_place<kThreads>(f, blockIdx.x);
  const CloudRows rows = cloud_rows(p, place.cloud);
  const int64_t i = place.first + threadIdx.x;
  if (i >= rows.valid) return;
  const uint2 key_rank =
      f.key_rank[(place.cloud < p.B ? 0 : p.B * (p.N - p.M)) + place.cloud * rows.size + i];
  if (key_rank.x == kNoKey32) return;
  const float3 point = load_point(rows.points, i);
  const unsigned* starts = f.cells_of(place.cloud);
  const int64_t at = starts[key_rank.x] + key_rank.y;
  if (key_rank.y == kMostUnordered || (key_rank.y > kMostUnordered && at % kNodePoints == 0)) {
    const unsigned* next = starts + key_rank.x + 1;
    const int64_t end = key_rank.x + 1 < f.cells ? *next : f.count[place.cloud];
    const Crowding crowding = end - starts[key_rank.x] > kMostInCell ? kRefined : kCrowded;
    atomicMax(
        reinterpret_cast<int*>(f.crowding) + f.within(place.cloud, f.nodes) + at / kNodePoints,
        crowding);
  }
  f.sorted[f.within(place.cloud, f.capacity) + at] =
      make_float4(point.x, point.y, point.z, __int_as_float(static_cast<int>(i)));
}

}  // namespace pointloss
