// SPDX-License-Identifier: MIT
// Nearest neighbours of small clouds (up to kSmallMost points if shared memory allows), both
// directions in one launch, exact.
//
// Problem: for every point of one cloud of 3-D points its nearest in the other, ties to the lowest
// index, bit for bit what brute force gives.
// Method: a block counting-sorts both clouds into cells of the Hilbert curve (sort.cuh), again if
// many are crowded (refine.cuh), keeps the target as leaves with their boxes and those of nodes of
// 32 leaves in shared memory, and walks them (../walk.cuh) with its share of the queries.
// Map: block = (pair, direction, part of the query cloud's curve); thread = up to kPoints points of
// each cloud while sorting, then warps take 32 / kLanes queries at a time. Blocks of a pair repeat
// the same sort because that costs less than handing it from one launch to the next.
// Cost: O(N + M) per block for sorting; a query on a surface or in a volume scans a few leaves.
// Guarantee: deterministic results (the order inside a cell is not, and does not matter), no
// workspace, no host synchronisation, any lengths.
#pragma once

#include <atomic>

#include "../../shared/launch.cuh"
#include "../walk.cuh"
#include "refine.cuh"

namespace pointloss {

template <int kLanes>
__device__ __forceinline__ void answer_queries(const SmallTarget& s, const SmallTask& t,
                                               SmallShared& shared) {
  constexpr int kQueries = 32 / kLanes;
  const int lane = threadIdx.x % 32;
  for (;;) {
    int place = 0;
    if (lane == 0) place = atomicAdd(&shared.next_place, kQueries);
    place = __shfl_sync(kWholeWarp, place, 0) + lane / kLanes;
    if (place - lane / kLanes >= shared.end_place) return;
    int query = place < shared.end_place ? s.query_of[place] : kNoQuery;
    const bool valid = query != kNoQuery;
    const unsigned present = __ballot_sync(kWholeWarp, valid);
    if (present == 0) continue;
    int seed = valid ? s.seed[place] : 0;
    // Idle lanes repeat a query of the warp.
    const int other = __ffs(present) - 1;
    const int spare_query = __shfl_sync(kWholeWarp, query, other);
    const int spare_seed = __shfl_sync(kWholeWarp, seed, other);
    if (!valid) query = spare_query, seed = spare_seed;
    Walk<SmallTarget, kLanes> walk(s, load_point(t.query, query));
    if (s.leaf_count > 0) {
      const bool far = walk.start(seed);
      walk.visit_nodes(far, 0);
    }
    const int found = walk.finish();
    if (!valid || lane % kLanes != 0) continue;
    t.dist[query] = walk.bound;
    t.idx[query] = found;
  }
}

template <int kThreads, int kPoints, int kCellBits, int kLanes>
__global__ void __launch_bounds__(kThreads, 1024 / kThreads)
    small_kernel(const NearestPairParams p, int parts) {
  let_next_kernel_start();
  extern __shared__ float4 dynamic[];
  __shared__ SmallShared shared;
  const SmallTask t = small_task(p, parts);
  write_other_rows<kThreads>(t, parts);
  if (t.query_count <= 0) return;
  SmallTarget s;
  const int most = static_cast<int>(p.N > p.M ? p.N : p.M);
  s.lay_out(reinterpret_cast<char*>(dynamic), most, kCellBits);
  s.points = t.target;
  for (int k = threadIdx.x; k < 1 << kCellBits; k += kThreads) s.counters[k] = 0;
  const auto clear_places = [&] {
    if (parts == 1) return;
    for (int k = threadIdx.x; k < most; k += kThreads) s.query_of[k] = kNoQuery;
  };
  clear_places();
  if (threadIdx.x == 0) shared.first_place = kSmallMost, shared.end_place = shared.unsorted = 0;
  const float* const clouds[2] = {t.target, t.query};
  const int64_t counts[2] = {t.target_count, t.query_count};
  make_frames<kThreads, 2>(clouds, counts, shared.scratch, shared.frame);
  SmallPoints<kThreads, kPoints, kCellBits> points;
  points.count(s, t, shared);
  __syncthreads();
  const int2 found = scan_counters<kThreads, kCellBits>(s, shared);
  s.leaf_count = (found.x + kLeafPoints - 1) / kLeafPoints;
  s.node_count = (s.leaf_count + 31) / 32;
  const int2 own = own_places(t, parts, found.y);
  const bool refined =
      shared.unsorted * kCrowdedShare > found.x + found.y &&
      !(repeats<kThreads>(t.target, t.target_count) && repeats<kThreads>(t.query, t.query_count));
  if (refined) {
    refine_cells<kThreads, kPoints, kCellBits>(s, t, shared, own, found, most, points.packed);
    clear_places();
    __syncthreads();
  }
  points.place(s, t, shared, own, found.y, refined);
  __syncthreads();
  if (threadIdx.x == 0) shared.next_place = shared.first_place;
  make_boxes<kThreads>(s, found.x);
  __syncthreads();
  answer_queries<kLanes>(s, t, shared);
}

// Whether the current device has the shared memory for clouds of these sizes.
inline bool small_supports(int64_t N, int64_t M) {
  const int64_t most = N > M ? N : M;
  if (most > kSmallMost) return false;
  const size_t dynamic =
      SmallTarget().lay_out(nullptr, static_cast<int>(most), small_cell_bits(most));
  bool fits = false;
  return fits_shared_memory(dynamic + sizeof(SmallShared), &fits) == cudaSuccess && fits;
}

template <int kThreads, int kPoints, int kCellBits, int kLanes>
cudaError_t start_small(const NearestPairParams& p, int parts, cudaStream_t stream) {
  auto* kernel = &small_kernel<kThreads, kPoints, kCellBits, kLanes>;
  const int most = static_cast<int>(p.N > p.M ? p.N : p.M);
  const size_t dynamic = SmallTarget().lay_out(nullptr, most, kCellBits);
  const size_t largest = SmallTarget().lay_out(nullptr, kThreads * kPoints, kCellBits);
  static std::atomic<uint64_t> raised{0};  // a bit per device: raising the limit takes time
  const cudaError_t error = raise_shared_memory(kernel, dynamic, largest, raised);
  if (error != cudaSuccess) return error;
  const int64_t blocks = p.B * (p.dist_y == nullptr ? 1 : 2) * parts;
  if (blocks > INT_MAX) return cudaErrorInvalidValue;
  return launch(kernel, {grid_size(blocks), kThreads, dynamic}, stream, p, parts);
}

// Blocks that share the queries of one direction: enough to fill the device once, with at least
// kPartQueries queries each.
inline int small_parts(const NearestPairParams& p, int multiprocessors) {
  const int64_t most = p.N > p.M ? p.N : p.M;
  const int64_t wanted = multiprocessors / (p.B * (p.dist_y == nullptr ? 1 : 2));
  const int64_t useful = (most + kPartQueries - 1) / kPartQueries;
  return static_cast<int>(wanted < 1 ? 1 : wanted < useful ? wanted : useful);
}

// Takes sizes that small_supports.
inline cudaError_t launch_small_search(const NearestPairParams& p, cudaStream_t stream) {
  if (p.B == 0 || (p.N == 0 && p.M == 0)) return cudaSuccess;
  int multiprocessors = 0;
  const cudaError_t error = device_attribute(cudaDevAttrMultiProcessorCount, &multiprocessors);
  if (error != cudaSuccess) return error;
  const int parts = small_parts(p, multiprocessors);
  const int64_t most = p.N > p.M ? p.N : p.M;
  const bool two = most <= parts * int64_t{kTwoLaneSmall};  // always for at most 1024 points
  auto* start = most <= 512    ? &start_small<256, 2, 9, 2>
                : most <= 1024 ? &start_small<1024, 1, 12, 2>
                : most <= 2048 ? (two ? &start_small<1024, 2, 12, 2> : &start_small<1024, 2, 12, 1>)
                : most <= 4096
                    ? (two ? &start_small<1024, 4, 12, 2> : &start_small<1024, 4, 12, 1>)
                    : (two ? &start_small<1024, 8, 13, 2> : &start_small<1024, 8, 13, 1>);
  return start(p, parts, stream);
}

}  // namespace pointloss
