// SPDX-License-Identifier: MIT
// What a block of search.cuh does before it answers queries: it sorts both clouds of its pair by
// cells of the Hilbert curve and builds the tree of the target, all in shared memory.
#pragma once

#include "../../../common/arena.h"
#include "../curve_frame.cuh"
#include "../cylinder.cuh"
#include "../pairs.cuh"

namespace pointloss {

constexpr uint16_t kNoQuery = 0xffff;

// A crowded cell, which is split from a level of the curve on.
struct alignas(4) SmallSegment {
  uint16_t start, first;  // of its points; of the new cells, 8^levels and one for their end
  uint8_t level, levels;
};

// One 16-byte unit longer than it needs to be: an odd number of them puts the leaves that the lanes
// of a warp scan at the same time into different banks.
struct SmallLeaf : Leaf<uint16_t> {
  uint4 unused;
};

// What one block holds of its pair in dynamic shared memory.
struct SmallTarget {
  uint32_t* counters;  // two 16-bit counters or starts a word: cells of the target, of the queries
  SmallSegment* segments;
  SmallLeaf* leaves;
  Box *leaf_boxes, *node_boxes;
  uint16_t* query_of;  // of a place on the query cloud's curve
  uint16_t* seed;      // leaf near that query
  int leaf_count, node_count;
  const float* points;
  // In few points the neighbours on the curve are near enough.
  static constexpr bool kHasCylinders = false;
  static constexpr const Cylinder *leaf_cylinders = nullptr, *node_cylinders = nullptr;

  __device__ __forceinline__ float3 point(int index) const { return load_point(points, index); }

  // Lays the arrays out from `base`, which may be null; returns the bytes they take.
  __host__ __device__ size_t lay_out(char* base, int most, int cell_bits) {
    const int leaf_most = (most + kLeafPoints - 1) / kLeafPoints;
    Arena<16> arena(base);
    arena.take(counters, 1 << cell_bits);
    uint16_t* more_counters;  // `counters` go on here
    arena.overlay(
        [&] {  // while cells are split again
          arena.take(more_counters, more_cells(most));
          arena.take(segments, most_segments(most));
        },
        [&] {  // afterwards
          arena.take(leaves, leaf_most);
          arena.take(leaf_boxes, leaf_most);
          arena.take(node_boxes, (leaf_most + 31) / 32);
          arena.take(query_of, most);
          arena.take(seed, most);
        });
    return arena.used();
  }
  // Cells and segments that all rounds can make: a segment has more than a leaf of points, and no
  // fewer than its new cells.
  static __host__ __device__ int more_cells(int most) {
    return (2 * kSmallRounds * most + 63) / 64 * 64;
  }
  static __host__ __device__ int most_segments(int most) {
    return 2 * kSmallRounds * most / (kLeafPoints + 1);
  }
};

// The scan gives every thread consecutive words; skewed by the row they are free of bank conflicts.
__device__ __forceinline__ int skewed(int word) { return (word & ~31) | ((word + word / 32) & 31); }

__device__ __forceinline__ int counter_of(const uint32_t* counters, unsigned cell) {
  return (counters[skewed(cell / 2)] >> (16 * (cell & 1))) & 0xffff;
}

struct SmallTask {
  const float *target, *query;
  float* dist;
  int64_t* idx;
  int target_count, query_count;  // valid points; -1 if a length is out of range
  int query_rows;
  int part;
};

__device__ __forceinline__ SmallTask small_task(const NearestPairParams& p, int parts) {
  const int directions = p.dist_y == nullptr ? 1 : 2;
  const int64_t pair = blockIdx.x / parts / directions;
  const bool forward = blockIdx.x / parts % directions == 0;
  const CloudRows query = cloud_rows(p, forward ? pair : p.B + pair);
  const CloudRows target = cloud_rows(p, forward ? p.B + pair : pair);
  return {target.points,
          query.points,
          query.dist,
          query.idx,
          static_cast<int>(target.valid),
          static_cast<int>(query.valid),
          static_cast<int>(query.size),
          static_cast<int>(blockIdx.x % parts)};
}

// Rows that no search answers: past the length, of a pair with a bad length, not finite.
template <int kThreads>
__device__ __forceinline__ void write_other_rows(const SmallTask& t, int parts) {
  const int first = max(t.query_count, 0);
  const float dist = t.query_count < 0 ? NAN : 0.f;
  for (int i = first + t.part * kThreads + threadIdx.x; i < t.query_rows; i += parts * kThreads) {
    t.dist[i] = dist;
    t.idx[i] = -1;
  }
}

struct SmallShared {
  FrameScratch scratch[2];
  CurveFrame frame[2];
  unsigned warp_total[32];
  int first_place, end_place;  // of this block's queries on the curve
  int next_place;              // that no warp has taken yet
  int unsorted;                // points that are out of order in their cells
  int cells, segments;         // so far, while refining
};

template <int kCellBits>
__device__ __forceinline__ unsigned cell_of(const CurveFrame& frame, float3 p) {
  constexpr int kAxisBits = (kCellBits + 2) / 3;
  return frame.key<kAxisBits>(p, kAxisBits) >> (3 * kAxisBits - kCellBits);
}

// Counts a point into its cell; returns cell and rank in one word, kNone if it is not finite.
template <int kCellBits>
__device__ __forceinline__ uint32_t count_point(SmallTarget& s, const CurveFrame& frame, int cloud,
                                                float3 p) {
  if (!is_finite(p)) return kNone;
  const unsigned cell = (cloud << kCellBits) + cell_of<kCellBits>(frame, p),
                 shift = 16 * (cell & 1);
  const unsigned rank = atomicAdd(&s.counters[skewed(cell / 2)], 1u << shift) >> shift;
  return (cell << 16) | (rank & 0xffff);
}

// Counts become starts, from 0 in either cloud; returns how many points each cloud has.
template <int kThreads, int kCellBits>
__device__ __forceinline__ int2 scan_counters(SmallTarget& s, SmallShared& shared) {
  constexpr int kWords = (1 << kCellBits) / kThreads, kWarps = kThreads / 32;
  const int tid = threadIdx.x, lane = tid % 32, warp = tid / 32;
  unsigned word[kWords], sum = 0;
#pragma unroll
  for (int k = 0; k < kWords; ++k) {
    word[k] = s.counters[skewed(tid * kWords + k)];
    sum += (word[k] & 0xffff) + (word[k] >> 16);
  }
  const unsigned inclusive = warp_inclusive_sum(sum);
  if (lane == 31) shared.warp_total[warp] = inclusive;
  __syncthreads();
  const unsigned total = lane < kWarps ? shared.warp_total[lane] : 0;
  const int targets = warp_sum(lane < kWarps / 2 ? total : 0);
  const int queries = warp_sum(total) - targets;
  unsigned run = warp_sum(lane < warp ? total : 0) + inclusive - sum;
  if (tid >= kThreads / 2) run -= targets;
#pragma unroll
  for (int k = 0; k < kWords; ++k) {
    const unsigned even = run, odd = even + (word[k] & 0xffff);
    run = odd + (word[k] >> 16);
    s.counters[skewed(tid * kWords + k)] = even | (odd << 16);
  }
  __syncthreads();
  return make_int2(targets, queries);
}

// Places of the queries of this block: [N part / parts, N (part + 1) / parts) of the curve.
__device__ __forceinline__ int2 own_places(const SmallTask& t, int parts, int queries) {
  return make_int2(queries * t.part / parts, queries * (t.part + 1) / parts);
}

// Whether this block answers query i, in a cell of the places [start, end). Inside a cell the
// places depend on the order of atomics, so there the index decides, evenly.
__device__ __forceinline__ bool is_own(const SmallTask& t, int2 own, int start, int end, int i) {
  if (start >= own.x && end <= own.y) return true;
  const int even = start + static_cast<int>(unsigned(end - start) * i / t.query_count);
  return even >= own.x && even < own.y;
}

// Where a query goes, and the leaf near it; kNone if another block answers it.
__device__ __forceinline__ uint32_t pack_query(int place, int seed_place) {
  return (static_cast<uint32_t>(place) << 16) | (seed_place / kLeafPoints);
}

template <int kCellBits>
__device__ __forceinline__ uint32_t place_query(SmallTarget& s, const SmallTask& t,
                                                const SmallShared& shared, int2 own, int queries,
                                                uint32_t cell_rank, int i, float3 p) {
  const unsigned cell = cell_rank >> 16;
  const int start = counter_of(s.counters, cell);
  const int end = cell + 1 < 2u << kCellBits ? counter_of(s.counters, cell + 1) : queries;
  if (!is_own(t, own, start, end, i)) return kNone;
  return pack_query(start + (cell_rank & 0xffff),
                    counter_of(s.counters, cell_of<kCellBits>(shared.frame[0], p)));
}

// The points of a thread on their way to their places: first all are counted, then all placed.
template <int kThreads, int kPoints, int kCellBits>
struct SmallPoints {
  // Few points stay in registers in between; more are read again.
  static constexpr bool kKeep = kPoints <= 2;
  float3 kept[2][kKeep ? kPoints : 1];
  // Cell and rank of a point, kNone if it is not finite. After refine.cuh what place() stores: the
  // place of a target; place and seed leaf of a query, kNone if another block answers it.
  uint32_t packed[2][kPoints];

  __device__ __forceinline__ float3 point(const float* points, int cloud, int k) const {
    return kKeep ? kept[cloud][kKeep ? k : 0] : load_point(points, k * kThreads + threadIdx.x);
  }

  // Also answers the queries that have no neighbour because they are not finite.
  __device__ __forceinline__ void count(SmallTarget& s, const SmallTask& t, SmallShared& shared) {
    unsigned unsorted = 0;
#pragma unroll
    for (int cloud = 0; cloud < 2; ++cloud) {
#pragma unroll
      for (int k = 0; k < kPoints; ++k) {
        const int i = k * kThreads + threadIdx.x;
        packed[cloud][k] = kNone;
        if (i >= (cloud == 0 ? t.target_count : t.query_count)) continue;
        const float3 p = load_point(cloud == 0 ? t.target : t.query, i);
        if (kKeep) kept[cloud][kKeep ? k : 0] = p;
        packed[cloud][k] = count_point<kCellBits>(s, shared.frame[cloud], cloud, p);
        const unsigned rank = packed[cloud][k] & 0xffff;
        unsorted += rank >= kMostUnsorted && rank < kSmallMost;
        if (cloud == 1 && t.part == 0 && packed[cloud][k] == kNone) {
          t.dist[i] = has_nan(t.query + 3 * i, 3) ? NAN : kInfinity;
          t.idx[i] = -1;
        }
      }
    }
    unsorted = warp_sum(unsorted);
    if (threadIdx.x % 32 == 0 && unsorted != 0) atomicAdd(&shared.unsorted, unsorted);
  }

  // Targets into leaves, and the queries of this block's part into order.
  __device__ __forceinline__ void place(SmallTarget& s, const SmallTask& t, SmallShared& shared,
                                        int2 own, int queries, bool refined) {
    int first = kSmallMost, end = 0;
#pragma unroll
    for (int k = 0; k < kPoints; ++k) {
      const int i = k * kThreads + threadIdx.x;
      const uint32_t target = packed[0][k];
      if (target != kNone) {
        int at = target & 0xffff;
        if (!refined) at += counter_of(s.counters, target >> 16);
        s.leaves[at / kLeafPoints].set(at % kLeafPoints, point(t.target, 0, k), i);
      }
      uint32_t query = packed[1][k];
      if (query != kNone && !refined) {
        query = place_query<kCellBits>(s, t, shared, own, queries, query, i, point(t.query, 1, k));
      }
      if (query != kNone) {
        const int at = query >> 16;
        s.query_of[at] = static_cast<uint16_t>(i);
        s.seed[at] = static_cast<uint16_t>(query);
        first = min(first, at), end = max(end, at + 1);
      }
    }
    first = warp_min(static_cast<unsigned>(first)), end = warp_max(static_cast<unsigned>(end));
    if (threadIdx.x % 32 == 0) {
      atomicMin(&shared.first_place, first);
      atomicMax(&shared.end_place, end);
    }
  }
};

// Boxes of all leaves and nodes of `targets` points.
template <int kThreads>
__device__ __forceinline__ void make_boxes(SmallTarget& s, int targets) {
  for (int k = threadIdx.x; k < s.leaf_count; k += kThreads) {
    float4 lower = make_float4(kInfinity, kInfinity, kInfinity, 0);
    float4 upper = make_float4(-kInfinity, -kInfinity, -kInfinity, 0);
    int least = INT_MAX;
    for (int j = 0; j < kLeafPoints; ++j) {
      const int slot = (j + k) % kLeafPoints;
      if (k * kLeafPoints + slot >= targets) {
        s.leaves[k].set(slot, make_float3(kInfinity, kInfinity, kInfinity), 0);
        continue;
      }
      const float3 p = s.leaves[k].point(slot);
      lower.x = fminf(lower.x, p.x), upper.x = fmaxf(upper.x, p.x);
      lower.y = fminf(lower.y, p.y), upper.y = fmaxf(upper.y, p.y);
      lower.z = fminf(lower.z, p.z), upper.z = fmaxf(upper.z, p.z);
      least = min(least, static_cast<int>(s.leaves[k].index[slot]));
    }
    lower.w = __int_as_float(least);
    s.leaf_boxes[k] = Box{lower, upper};
  }
  __syncthreads();
  const int lane = threadIdx.x % 32;
  for (int node = threadIdx.x / 32; node < s.node_count; node += kThreads / 32) {
    const int k = min(32 * node + lane, s.leaf_count - 1);
    float4 lower = s.leaf_boxes[k].lower, upper = s.leaf_boxes[k].upper;
    lower.x = warp_min(lower.x), upper.x = warp_max(upper.x);
    lower.y = warp_min(lower.y), upper.y = warp_max(upper.y);
    lower.z = warp_min(lower.z), upper.z = warp_max(upper.z);
    lower.w = __int_as_float(warp_min(__float_as_int(lower.w)));
    if (lane == 0) s.node_boxes[node] = Box{lower, upper};
  }
  __syncthreads();
}

}  // namespace pointloss
