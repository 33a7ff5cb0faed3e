// SPDX-License-Identifier: MIT
// Sorts the clouds of a batch of pairs along the Hilbert curve.
//
// Method: a counting sort by cells of the curve. Cells number two to four times the points, so most
// hold few points; crowded cells are sorted again (refine.cuh), and boxes.cuh orders the points of
// a node by keys of its own. That saves the passes of a radix sort of keys.
// Map: a block per cloud makes the frame; a thread per point counts; a block per kScanCells cells
// scans the counts, with the decoupled look-back of Merrill and Garland, Single-pass Parallel
// Prefix Scan with Decoupled Look-back (2016), as one kernel of the chain; a thread per point
// scatters.
// Cost: O(points + cells), each point read three times and written once.
// Guarantee: any order is exact. Points of a cell come in the order of atomics.
#pragma once

#include "forest.cuh"

namespace pointloss {

// For a kernel in the middle of a KernelChain. What it reads of others comes after this.
__device__ __forceinline__ void follow_previous_kernel() {
  let_next_kernel_start();
  wait_for_previous_kernel();
}

// One block per cloud makes its frame; the others clear what must be zero.
__global__ void __launch_bounds__(kFrameThreads)
    tree_frames_kernel(const NearestPairParams p, const Forest f) {
  __shared__ FrameScratch scratch[1];
  __shared__ CurveFrame frame[1];
  follow_previous_kernel();
  if (blockIdx.x >= 2 * p.B) {
    const size_t first = (blockIdx.x - 2 * p.B) * size_t{kClearedPerBlock};
    const size_t last =
        first + kClearedPerBlock < f.zeroed_bytes ? first + kClearedPerBlock : f.zeroed_bytes;
    for (size_t k = first + 16 * threadIdx.x; k < last; k += 16 * kFrameThreads) {
      *reinterpret_cast<uint4*>(reinterpret_cast<char*>(f.zeroed) + k) = make_uint4(0, 0, 0, 0);
    }
    return;
  }
  const CloudRows rows = cloud_rows(p, blockIdx.x);
  const float* const points[1] = {rows.points};
  const int64_t counts[1] = {rows.valid};
  make_frames<kFrameThreads, 1>(points, counts, scratch, frame);
  constexpr int kWords = sizeof(CurveFrame) / 4;
  for (int k = threadIdx.x; k < kWords; k += kFrameThreads) {
    reinterpret_cast<int*>(&f.frames[blockIdx.x])[k] = reinterpret_cast<const int*>(frame)[k];
  }
}

// A copy in shared memory of the frame of a cloud, by the whole block; ends with a barrier.
__device__ __forceinline__ void copy_frame(const CurveFrame& from, CurveFrame& to) {
  for (int k = threadIdx.x; k < int(sizeof(CurveFrame) / 4); k += blockDim.x) {
    reinterpret_cast<int*>(&to)[k] = reinterpret_cast<const int*>(&from)[k];
  }
  __syncthreads();
}

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
__global__ void __launch_bounds__(kBuildThreads)
    tree_count_kernel(const NearestPairParams p, const Forest f) {
  __shared__ CurveFrame frame;
  const BlockPlace place = block_place<kBuildThreads>(f, blockIdx.x);
  const CloudRows rows = cloud_rows(p, place.cloud);
  const int64_t i = place.first + threadIdx.x;
  float3 point = make_float3(0, 0, 0);
  if (i < rows.size) point = load_point(rows.points, i);
  follow_previous_kernel();
  copy_frame(f.frames[place.cloud], frame);
  if (i >= rows.size) return;
  uint2 key_rank = make_uint2(kNone, 0);
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
  if (key_rank.x == kNone && rows.dist != nullptr) rows.dist[i] = dist, rows.idx[i] = -1;
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
constexpr int kScanThreads = kScanCells / 4;

__global__ void __launch_bounds__(kScanThreads) tree_scan_kernel(const Forest f) {
  __shared__ unsigned warp_total[kScanThreads / 32], tile_ticket, before;
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
  const unsigned total = lane < kScanThreads / 32 ? warp_total[lane] : 0;
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
__global__ void __launch_bounds__(kBuildThreads)
    tree_scatter_kernel(const NearestPairParams p, const Forest f) {
  follow_previous_kernel();
  const BlockPlace place = block_place<kBuildThreads>(f, blockIdx.x);
  const CloudRows rows = cloud_rows(p, place.cloud);
  const int64_t i = place.first + threadIdx.x;
  if (i >= rows.valid) return;
  const uint2 key_rank =
      f.key_rank[(place.cloud < p.B ? 0 : p.B * (p.N - p.M)) + place.cloud * rows.size + i];
  if (key_rank.x == kNone) return;
  const float3 point = load_point(rows.points, i);
  const unsigned* starts = f.cells_of(place.cloud);
  const int64_t at = starts[key_rank.x] + key_rank.y;
  if (key_rank.y == kMostUnordered || (key_rank.y > kMostUnordered && at % kNodePoints == 0)) {
    const unsigned* next = starts + key_rank.x + 1;
    const int64_t end = key_rank.x + 1 < f.cells ? *next : f.count[place.cloud];
    const Crowding crowding = end - starts[key_rank.x] > kMostInCell ? kRefined : kUneven;
    atomicMax(
        reinterpret_cast<int*>(f.crowding) + f.within(place.cloud, f.nodes) + at / kNodePoints,
        crowding);
  }
  f.sorted[f.within(place.cloud, f.capacity) + at] =
      make_float4(point.x, point.y, point.z, __int_as_float(static_cast<int>(i)));
}

}  // namespace pointloss
