// SPDX-License-Identifier: MIT
// Nearest neighbours of large clouds, both directions in one call, exact.
//
// Problem: for every point of one cloud of 3-D points its nearest in the other, ties to the lowest
// index, bit for bit what brute force gives.
// Method: both clouds become trees of boxes along the Hilbert curve (nearest_tree_sort.cuh,
// nearest_tree_boxes.cuh), and the points of one walk the tree of the other
// (nearest_tree_walk.cuh), a warp the neighbours on the curve.
//
// Map of the query: a warp = 32 / kLanes points in curve order; blocks cover x, then y.
//
// Cost: O(N + M) building, O(N + M) memory; a query on a surface or in a volume scans a few leaves.
//
// Guaranteed: deterministic results (the order inside a cell is not, and does not matter), no host
// synchronisation, any lengths; sizes alone fix the launches.
//
// Roofline (H200, two samples of a surface, profiler counts). A pair costs 7.9 issue slots in the
// scan of a leaf (6 of arithmetic, 0.5 of minimum, 0.75 of loads), but a query at 131072 points
// scans 3 to 4 leaves only, so the walk around it dominates: 2616 instructions a warp of 16
// queries, a quarter of them in scans. 42.9 million issue slots are 46 us at full rate; the query
// kernel takes 76 us, so 60 % of that, the rest waits for the cache. Building moves about 120 bytes
// a point: 56 us at 4.3 TB/s for two clouds of a million, of 223 us taken, because random access
// (counting 45, scattering 72) and the instructions of the boxes kernel (72) cost more.
//
// Did not pay: leaves of 8 (4 to 10 % slower on surfaces); a second seed leaf (3 % with leaves of
// 8, not measured with 16); two lanes a query for a million points (15 % slower; below 2^19 queries
// they hide latency instead).
//
// Still slow: queries in a small blob far from the target (a wavefront that touches many leaves at
// nearly one distance), and clouds of a million on a line or in many clusters below 1/100 of the
// frame, whose cells hold thousands of points in no order; sorting such cells again would cure it.
#pragma once

#include "nearest_tree_boxes.cuh"
#include "nearest_tree_walk.cuh"

namespace pointloss {

constexpr int kQueryThreads = 128;
constexpr int64_t kFourLaneQueries = 1 << 16, kTwoLaneQueries = 1 << 19;  // measured on an H200

struct TreeTarget {
  const TreeLeaf* leaves;
  const Box *leaf_boxes, *node_boxes;
  const Disc *leaf_discs, *node_discs;
  const UpperNode* upper_nodes;
  int leaf_count, node_count, upper_count;
  const float* points;

  static constexpr bool kHasDiscs = true;

  __device__ __forceinline__ float3 point(int index) const { return load_point(points, index); }
  __device__ __forceinline__ TreeTarget(const Forest& f, const NearestPairParams& p,
                                        int64_t cloud) {
    const int64_t leaf = f.within(cloud, f.capacity) / kLeafPoints, node = f.within(cloud, f.nodes);
    leaves = f.leaves + leaf;
    leaf_boxes = f.leaf_boxes + leaf, leaf_discs = f.leaf_discs + leaf;
    node_boxes = f.node_boxes + node, node_discs = f.node_discs + node;
    upper_nodes = f.upper_nodes + f.within(cloud, f.uppers);
    leaf_count = (f.count[cloud] + kLeafPoints - 1) / kLeafPoints;
    node_count = (leaf_count + 31) / 32;
    upper_count = (node_count + 31) / 32;
    points = cloud_rows(p, cloud).points;
  }
};

// Upper nodes, 32 at a time, the nearest of them first.
template <int kLanes>
__device__ __forceinline__ void visit_uppers(Walk<TreeTarget, kLanes>& walk) {
  const TreeTarget& target = walk.target;
  const int lane = threadIdx.x % 32;
  for (int first = 0; first < target.upper_count; first += 32) {
    const bool in = first + lane < target.upper_count;
    const UpperNode node = target.upper_nodes[in ? first + lane : 0];
    const Box box{make_float4(from_ordered(~node.not_lower[0]), from_ordered(~node.not_lower[1]),
                              from_ordered(~node.not_lower[2]), __uint_as_float(~node.not_least)),
                  make_float4(from_ordered(node.upper[0]), from_ordered(node.upper[1]),
                              from_ordered(node.upper[2]), 0)};
    const float distance = in ? box_box(walk.low, walk.high, box) : kInfinity;
    bool wanted = walk.warp_wants(in, distance, box) && walk.survives(box);
    unsigned pending = __ballot_sync(kWholeWarp, wanted);
    while (pending != 0) {
      const int child = lane_of_least(pending, distance, box.least());
      walk.visit_nodes(32 * (first + child));
      wanted = walk.warp_wants(wanted && lane != child, distance, box) && walk.survives(box);
      pending = __ballot_sync(kWholeWarp, wanted);
    }
  }
}

template <int kLanes>
__global__ void __launch_bounds__(kQueryThreads, 8)
    tree_query_kernel(const NearestPairParams p, const Forest f) {
  constexpr int kQueries = 32 / kLanes, kStep = kQueryThreads / kLanes;
  const BlockPlace block = block_place<kStep>(f, blockIdx.x);
  const int64_t first = block.first + threadIdx.x / 32 * kQueries;
  const int count = f.count[block.cloud], lane = threadIdx.x % 32;
  if (first >= count) return;
  const int64_t place = first + lane / kLanes;
  const bool valid = place < count;
  const int64_t at = f.within(block.cloud, f.capacity) + (valid ? place : count - 1);
  const TreeLeaf& leaf = f.leaves[at / kLeafPoints];
  const TreeTarget target(f, p, f.other(block.cloud));
  Walk<TreeTarget, kLanes> walk(target, leaf.point(at % kLeafPoints));
  const int row = leaf.index[at % kLeafPoints];
  if (target.leaf_count > 0) {
    walk.start(f.guess[at]);
    visit_uppers(walk);
  }
  const int found = walk.finish();
  if (!valid || lane % kLanes != 0) return;
  const CloudRows rows = cloud_rows(p, block.cloud);
  rows.dist[row] = walk.bound;
  rows.idx[row] = found;
}

// Bytes of device workspace, 256-byte aligned, that launch_nearest_tree needs.
inline size_t nearest_tree_workspace(int64_t B, int64_t N, int64_t M) {
  Forest forest;
  return lay_out(forest, B, N, M, nullptr);
}

template <int kLanes>
cudaError_t launch_tree_lanes(const NearestPairParams& p, void* workspace, cudaStream_t stream) {
  if (p.B == 0 || (p.N == 0 && p.M == 0)) return cudaSuccess;
  Forest f;
  lay_out(f, p.B, p.N, p.M, static_cast<char*>(workspace));
  constexpr int kStep = kQueryThreads / kLanes;
  const int64_t points = block_count<kBuildThreads>(f), nodes = block_count<kNodePoints>(f);
  const int64_t tiles = 2 * p.B * f.tiles;
  const int64_t queries =
      p.dist_y == nullptr ? p.B * ceil_divide(p.N, kStep) : block_count<kStep>(f);
  if (points > INT_MAX || tiles > INT_MAX || queries > INT_MAX || p.N > INT_MAX || p.M > INT_MAX) {
    return cudaErrorInvalidValue;
  }
  const auto grid = [](int64_t blocks) { return static_cast<unsigned>(blocks); };
  const cudaError_t error = cudaMemsetAsync(f.zeroed, 0, f.zeroed_bytes, stream);
  if (error != cudaSuccess) return error;
  tree_frames_kernel<1024><<<grid(2 * p.B), 1024, 0, stream>>>(p, f);
  tree_count_kernel<kBuildThreads><<<grid(points), kBuildThreads, 0, stream>>>(p, f);
  tree_scan_kernel<kScanCells / 4><<<grid(tiles), kScanCells / 4, 0, stream>>>(f);
  tree_scatter_kernel<kBuildThreads><<<grid(points), kBuildThreads, 0, stream>>>(p, f);
  tree_boxes_kernel<kNodePoints><<<grid(nodes), kNodePoints, 0, stream>>>(f);
  if (queries > 0) {
    tree_query_kernel<kLanes><<<grid(queries), kQueryThreads, 0, stream>>>(p, f);
  }
  return cudaGetLastError();
}

inline cudaError_t launch_nearest_tree(const NearestPairParams& p, void* workspace,
                                       cudaStream_t stream) {
  // Lanes a query: more where the queries alone would leave the device waiting for memory.
  const int64_t queries = p.B * (p.N + (p.dist_y == nullptr ? 0 : p.M));
  if (queries <= kFourLaneQueries) return launch_tree_lanes<4>(p, workspace, stream);
  if (queries <= kTwoLaneQueries) return launch_tree_lanes<2>(p, workspace, stream);
  return launch_tree_lanes<1>(p, workspace, stream);
}

}  // namespace pointloss
