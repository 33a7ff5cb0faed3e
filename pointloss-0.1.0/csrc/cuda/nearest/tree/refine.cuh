// SPDX-License-Identifier: MIT
// Sorts the crowded cells of sort.cuh again, each on a grid of its own: clusters, lines and several
// scales in one cloud.
//
// Map: a block takes a segment of Forest::sorted from a queue, sorts it by the 4096 cells of a
// Hilbert curve over its own bounding box, and queues the cells that are still crowded. Every round
// is 16 times finer, so a cloud over all the exponents of a float takes some dozens.
// Cost: nothing but a launch if no cell is crowded; else a few passes over the points of crowded
// cells.
// Guarantee: it ends. Blocks that find the queue empty wait only while others may still add to it,
// and a block that works never waits.
#pragma once

#include "sort.cuh"

namespace pointloss {

constexpr int kRefineCells = 1 << (3 * kRefineBits);

struct RefineScratch {
  unsigned place[kRefineCells];  // counts, starts, then ends of the cells
  unsigned low[3][kRefineThreads / 32], high[3][kRefineThreads / 32];
  unsigned warp_total[kRefineThreads / 32];
  HilbertSteps steps;
  Segment segment;
};

// Calls visit(point, its place in the segment) for all points of a segment, by the whole block.
template <class Visit>
__device__ __forceinline__ void each_point(const float4* points, int count, const Visit& visit) {
  constexpr int kAtOnce = 4;  // loads in flight
  for (int first = threadIdx.x; first < count; first += kAtOnce * kRefineThreads) {
    float4 p[kAtOnce];
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      const int i = first + k * kRefineThreads;
      if (i < count) p[k] = __ldcg(points + i);
    }
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      const int i = first + k * kRefineThreads;
      if (i < count) visit(p[k], i);
    }
  }
}

using RefineGrid = BoxGrid<kRefineBits>;

// The grid over a segment's bounding box, by the whole block; scale 0 if all points are equal.
__device__ __forceinline__ RefineGrid grid_of_segment(RefineScratch& s, const float4* points,
                                                      int count) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  float4 low = make_float4(kInfinity, kInfinity, kInfinity, 0);
  float4 high = make_float4(-kInfinity, -kInfinity, -kInfinity, 0);
  each_point(points, count, [&](float4 p, int) {
    low.x = fminf(low.x, p.x), low.y = fminf(low.y, p.y), low.z = fminf(low.z, p.z);
    high.x = fmaxf(high.x, p.x), high.y = fmaxf(high.y, p.y), high.z = fmaxf(high.z, p.z);
  });
  const float lows[3] = {low.x, low.y, low.z}, highs[3] = {high.x, high.y, high.z};
#pragma unroll
  for (int a = 0; a < 3; ++a) {
    const unsigned from = warp_min(to_ordered(lows[a])), to = warp_max(to_ordered(highs[a]));
    if (lane == 0) s.low[a][warp] = from, s.high[a][warp] = to;
  }
  __syncthreads();
  float lower[3], extent = 0;
#pragma unroll
  for (int a = 0; a < 3; ++a) {
    const int other = lane % (kRefineThreads / 32);
    lower[a] = from_ordered(warp_min(s.low[a][other]));
    extent = fmaxf(extent, from_ordered(warp_max(s.high[a][other])) - lower[a]);
  }
  return {{lower[0], lower[1], lower[2]}, extent > 0 ? (1 << kRefineBits) / extent : 0};
}

// Counts become starts.
__device__ __forceinline__ void scan_places(RefineScratch& s) {
  constexpr int kOwn = kRefineCells / kRefineThreads;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  unsigned sum = 0;
  for (int k = 0; k < kOwn; ++k) sum += s.place[threadIdx.x * kOwn + k];
  const unsigned inclusive = warp_inclusive_sum(sum);
  if (lane == 31) s.warp_total[warp] = inclusive;
  __syncthreads();
  unsigned run = warp_sum(lane < warp ? s.warp_total[lane] : 0) + inclusive - sum;
  for (int k = 0; k < kOwn; ++k) {
    const unsigned count = s.place[threadIdx.x * kOwn + k];
    s.place[threadIdx.x * kOwn + k] = run;
    run += count;
  }
  __syncthreads();
}

// Sorts a segment, by the whole block, and queues what is still crowded.
__device__ __forceinline__ void refine_segment(const Forest& f, RefineScratch& s) {
  const int64_t start = s.segment.start;
  const int count = s.segment.count;
  float4* points = f.sorted + start;
  float4* moved = reinterpret_cast<float4*>(f.leaves) + start;  // not yet in use, of the same size
  const RefineGrid grid = grid_of_segment(s, points, count);
  if (grid.scale == 0) return;
  for (int k = threadIdx.x; k < kRefineCells; k += kRefineThreads) s.place[k] = 0;
  __syncthreads();
  each_point(points, count,
             [&](float4 p, int) { atomicAdd(&s.place[grid.key(s.steps, p.x, p.y, p.z)], 1u); });
  __syncthreads();
  scan_places(s);
  each_point(points, count, [&](float4 p, int) {
    moved[atomicAdd(&s.place[grid.key(s.steps, p.x, p.y, p.z)], 1u)] = p;
  });
  __syncthreads();
  each_point(moved, count, [&](float4 p, int i) { points[i] = p; });
  __threadfence();  // before another block may read them
  __syncthreads();
  for (int k = threadIdx.x; k < kRefineCells; k += kRefineThreads) {
    const unsigned begin = k == 0 ? 0 : s.place[k - 1], end = s.place[k];
    const bool split = end - begin < static_cast<unsigned>(count);
    if (split && end - begin > kMostInCell) push_segment(f, start + begin, end - begin);
  }
}

__global__ void __launch_bounds__(kRefineThreads) tree_refine_kernel(const Forest f) {
  __shared__ RefineScratch s;
  follow_previous_kernel();
  volatile SegmentQueue* queue = f.queue;
  // Agreed by the whole block: others may bring it to 0 between two threads' looks.
  if (__syncthreads_or(queue->pending == 0)) return;
  copy_steps(s.steps);
  for (;;) {
    if (threadIdx.x == 0) {
      const int ticket = atomicAdd(&f.queue->popped, 1);
      volatile Segment* next = f.segments + ticket;
      s.segment.count = 0;
      while (queue->pending > 0) {
        if (ticket < f.segment_most && next->count != 0) {
          __threadfence();  // what its finder wrote is visible from here on
          s.segment.start = next->start;
          s.segment.count = next->count;
          break;
        }
        __nanosleep(200);
      }
    }
    __syncthreads();
    if (s.segment.count == 0) return;
    refine_segment(f, s);
    __syncthreads();
    if (threadIdx.x == 0) atomicSub(&f.queue->pending, 1);
  }
}

// As many as small clouds can keep busy, at most kRefineBlocks.
inline int64_t refine_blocks(const Forest& f) {
  return std::min<int64_t>(kRefineBlocks, ceil_div(f.B * (f.N + f.M), 4 * kMostInCell));
}

}  // namespace pointloss
