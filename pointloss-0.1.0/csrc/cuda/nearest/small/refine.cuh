// SPDX-License-Identifier: MIT
// Sorts the crowded cells of a block again: clusters, lines and several scales in one cloud. Many
// points share a cell there, in any order, so the boxes of leaves overlap.
//
// Method: a crowded cell is split into about as many cells as it has points, and what is still
// crowded is split again.
// Map: the whole block takes each step together: the points of crowded cells count themselves into
// the new cells, and warps scan the counts.
// Guarantee: the cells depend on the points alone, so all blocks of a pair agree on who answers
// which query.
#pragma once

#include "sort.cuh"

namespace pointloss {

constexpr unsigned kSplit = 0x8000;  // on a cell's entry: a segment instead of a start

template <int kThreads, int kPoints, int kCellBits>
struct SmallRefiner {
  SmallTarget& s;
  SmallShared& shared;
  int2 found;  // points of the target, of the query cloud

  __device__ __forceinline__ unsigned entry(unsigned cell) const {
    return counter_of(s.counters, cell);
  }
  __device__ __forceinline__ void set_entry(unsigned cell, unsigned value) const {
    reinterpret_cast<uint16_t*>(s.counters + skewed(cell / 2))[cell & 1] = value;
  }
  __device__ __forceinline__ int end_of(unsigned cell) const {
    if (cell + 1 == 2u << kCellBits) return found.y;
    const unsigned e = entry(cell + 1);
    return e & kSplit ? s.segments[e & ~kSplit].start : e;
  }

  // The entry of a cell of `count` points from a level of the curve on: new cells if it is crowded
  // and they would differ.
  __device__ __forceinline__ unsigned new_entry(unsigned start, unsigned count,
                                                unsigned level) const {
    if (count <= kCrowded || level >= kCodeLevels) return start;
    const unsigned most = min(kMostLevels, kCodeLevels - level);
    const unsigned levels = min((31u - __clz(count - 2)) / 3, most);
    const int id = atomicAdd(&shared.segments, 1);
    const int first = atomicAdd(&shared.cells, (1 << (3 * levels)) + 2);  // an even number
    s.segments[id] = SmallSegment{static_cast<uint16_t>(start), static_cast<uint16_t>(first),
                                  static_cast<uint8_t>(level), static_cast<uint8_t>(levels)};
    return kSplit | id;
  }

  // Makes segments of the crowded cells of the first sort, whose starts the scan has left.
  __device__ __forceinline__ void mark_cells(int cloud) const {
    constexpr int kOwn = (1 << kCellBits) / kThreads;
    const int first = (cloud << kCellBits) + kOwn * threadIdx.x;
    unsigned start[kOwn + 1];
#pragma unroll
    for (int k = 0; k < kOwn; ++k) start[k] = entry(first + k);
    start[kOwn] = threadIdx.x + 1 < kThreads ? entry(first + kOwn) : cloud == 0 ? found.x : found.y;
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kOwn; ++k) {
      const unsigned count = start[k + 1] - start[k];
      if (count > kCrowded) set_entry(first + k, new_entry(start[k], count, kCellBits / 3));
    }
    __syncthreads();
  }

  __device__ __forceinline__ unsigned cell_in(const SmallSegment& segment, uint3 code) const {
    const auto* steps = reinterpret_cast<const uint8_t*>(shared.frame[0].steps.word);
    unsigned state = 0, key = 0;
    for (int k = 0; k < segment.levels; ++k) {
      const unsigned shift = kCodeLevels - 1 - segment.level - k;
      const unsigned octant =
          ((code.x >> shift) & 1) << 2 | ((code.y >> shift) & 1) << 1 | ((code.z >> shift) & 1);
      const unsigned next = steps[state + octant];
      key = key << 3 | (next & 7), state = next & ~7u;
    }
    return segment.first + key;
  }

  // Counts of a segment's new cells become their entries, by a warp.
  __device__ __forceinline__ void scan(const SmallSegment& segment, bool again) const {
    const int lane = threadIdx.x % 32, cells = 1 << (3 * segment.levels);
    unsigned run = segment.start;
    for (int k = 2 * lane; k - 2 * lane < cells; k += 64) {
      uint32_t& word = s.counters[skewed((segment.first + k) / 2)];
      const unsigned counts = k < cells ? word : 0;
      const unsigned even = counts & 0xffff, odd = counts >> 16;
      const unsigned inclusive = warp_inclusive_sum(even + odd);
      const unsigned middle = run + inclusive - odd, start = middle - even;
      if (k < cells) {
        const unsigned level = again ? segment.level + segment.levels : kCodeLevels;
        word = new_entry(start, even, level) | new_entry(middle, odd, level) << 16;
      }
      run += __shfl_sync(kWholeWarp, inclusive, 31);
    }
    if (lane == 0) set_entry(segment.first + cells, run);
  }

  // Adds a point to a cell and returns its rank there. Lanes with the cell of the first of them go
  // together: points in one place would queue up for its counter.
  __device__ __forceinline__ unsigned count_in(unsigned cell) const {
    const unsigned active = __activemask(), lane = threadIdx.x % 32, shift = 16 * (cell & 1);
    const int first = __ffs(active) - 1;
    const bool with_first = cell == __shfl_sync(active, cell, first);
    const unsigned group = __ballot_sync(active, with_first);
    unsigned rank = 0;
    if (!with_first || static_cast<int>(lane) == first) {
      const unsigned added = with_first ? __popc(group) : 1;
      rank = atomicAdd(&s.counters[skewed(cell / 2)], added << shift) >> shift & 0xffff;
    }
    const unsigned base = __shfl_sync(active, rank, first);
    return with_first ? base + rank_in(group) : rank;
  }

  // Splits segments [from, to), which hold points of this thread.
  __device__ __forceinline__ void round(uint32_t (&packed)[kPoints], const float* points, int cloud,
                                        int from, int to, bool again) const {
#pragma unroll
    for (int k = 0; k < kPoints; ++k) {
      const unsigned e = packed[k] == kNone ? 0 : entry(packed[k] >> 16);
      if (!(e & kSplit)) continue;
      const float3 p = load_point(points, k * kThreads + threadIdx.x);
      const unsigned cell = cell_in(s.segments[e & ~kSplit], shared.frame[cloud].code(p));
      packed[k] = (cell << 16) | count_in(cell);
    }
    __syncthreads();
    for (int k = from + threadIdx.x / 32; k < to; k += kThreads / 32) scan(s.segments[k], again);
    __syncthreads();
  }

  // Where the target has points near p, which is in this cell of the first sort.
  __device__ __forceinline__ int seed_place(unsigned cell, float3 p) const {
    unsigned e = entry(cell);
    if (!(e & kSplit)) return e;
    const uint3 code = shared.frame[0].code(p);
    while (e & kSplit) e = entry(cell_in(s.segments[e & ~kSplit], code));
    return e;
  }

  // SmallPoints::packed of a cloud, from cell and rank to what SmallPoints::place stores.
  __device__ __forceinline__ void refine(uint32_t (&packed)[kPoints], const SmallTask& t, int cloud,
                                         int2 own) const {
    const float* points = cloud == 0 ? t.target : t.query;
    int from = shared.segments;
    __syncthreads();
    mark_cells(cloud);
#pragma unroll 1
    for (int k = 1; k <= kSmallRounds; ++k) {
      const int to = shared.segments;
      if (from == to) break;
      round(packed, points, cloud, from, to, k < kSmallRounds);
      from = to;
    }
#pragma unroll
    for (int k = 0; k < kPoints; ++k) {
      if (packed[k] == kNone) continue;
      const unsigned cell = packed[k] >> 16, start = entry(cell),
                     place = start + packed[k] % 0x10000;
      const int i = k * kThreads + threadIdx.x;
      if (cloud == 0) {
        packed[k] = place;
      } else if (is_own(t, own, start, end_of(cell), i)) {
        const float3 p = load_point(t.query, i);
        packed[k] = pack_query(place, seed_place(cell_of<kCellBits>(shared.frame[0], p), p));
      } else {
        packed[k] = kNone;
      }
    }
  }
};

// By the whole block: whether a sample of a cloud has few points that come only once in their warp.
// Then it is a few points many times, and sorting gains nothing.
template <int kThreads>
__device__ __forceinline__ bool repeats(const float* points, int count) {
  bool once = false;
  if (count > 0) {
    const float3 p = load_point(points, static_cast<int64_t>(threadIdx.x) * count / kThreads);
    const unsigned x = __float_as_uint(p.x), y = __float_as_uint(p.y), z = __float_as_uint(p.z);
    const unsigned mixed = (x * 0x9e3779b1u + y) * 0x85ebca6bu + z;
    once = __popc(__match_any_sync(__activemask(), mixed)) == 1;
  }
  return 4 * __syncthreads_count(once) < kThreads;
}

// By the whole block, after the scan of the first sort. Ends with a barrier.
template <int kThreads, int kPoints, int kCellBits>
__device__ __forceinline__ void refine_cells(SmallTarget& s, const SmallTask& t,
                                             SmallShared& shared, int2 own, int2 found, int most,
                                             uint32_t (&packed)[2][kPoints]) {
  constexpr int kFirstCells = 2 << kCellBits;
  for (int k = threadIdx.x; k < SmallTarget::more_cells(most) / 2; k += kThreads) {
    s.counters[kFirstCells / 2 + k] = 0;
  }
  if (threadIdx.x == 0) shared.cells = kFirstCells, shared.segments = 0;
  __syncthreads();
  const SmallRefiner<kThreads, kPoints, kCellBits> refiner{s, shared, found};
#pragma unroll 1  // the clouds change places, so that one copy of the code serves both
  for (int cloud = 0; cloud < 2; ++cloud) {
    refiner.refine(packed[0], t, cloud, own);
#pragma unroll
    for (int k = 0; k < kPoints; ++k) {
      const uint32_t word = packed[0][k];
      packed[0][k] = packed[1][k], packed[1][k] = word;
    }
  }
  __syncthreads();
}

}  // namespace pointloss
