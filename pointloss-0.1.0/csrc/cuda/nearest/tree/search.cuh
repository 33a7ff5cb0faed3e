// SPDX-License-Identifier: MIT
// Nearest neighbours of large clouds, both directions in one call, exact.
//
// Problem: for every point of one cloud of 3-D points its nearest in the other, ties to the lowest
// index, bit for bit what brute force gives.
// Method: both clouds become trees of boxes along the Hilbert curve (sort.cuh, refine.cuh,
// boxes.cuh), and the points of one walk the tree of the other (../walk.cuh); warps far from a
// target of another size list the points that they need (far_walk.cuh).
// Map: a warp = 32 / kLanes queries in curve order. Each kernel is launched while the one before
// still runs (KernelChain).
// Cost: O(N + M) for building and in memory; a query on a surface or in a volume scans a few
// leaves.
// Guarantee: deterministic results (the order inside a cell is not, and does not matter), no host
// synchronisation, any lengths; sizes alone fix the launches.
#pragma once

#include "../walk.cuh"
#include "boxes.cuh"
#include "far_walk.cuh"
#include "refine.cuh"

namespace pointloss {

// Where a block's queries begin: first those of x, then of y, but y first if x is much the smaller
// cloud (in the first pair). Queries far from a small cloud take longest, and what starts last ends
// alone.
template <int kStep>
__device__ __forceinline__ BlockPlace query_place(const NearestPairParams& p, const Forest& f) {
  int64_t task = blockIdx.x;
  if (p.dist_y != nullptr && much_smaller(f.frames[0], f.frames[f.B])) {
    const int64_t of_x = f.B * ceil_div(f.N, kStep), of_y = f.B * ceil_div(f.M, kStep);
    task += task < of_y ? of_x : -of_y;
  }
  return block_place<kStep>(f, task);
}

// Neighbours of the clouds of f in those of `targets`, which may be f itself.
template <int kLanes>
__global__ void __launch_bounds__(kQueryThreads, kQueryBlocks)
    tree_query_kernel(const NearestPairParams p, const Forest f, const Forest targets) {
  __shared__ float4 listed[kQueryThreads / 32][kListed];
  follow_previous_kernel();
  const BlockPlace block = query_place<kQueryThreads / kLanes>(p, f);
  const int count = f.count[block.cloud], lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t first = block.first + warp * (32 / kLanes);
  if (first >= count) return;
  const int64_t place = first + lane / kLanes;
  const bool valid = place < count;
  const int64_t at = f.within(block.cloud, f.capacity) + (valid ? place : count - 1);
  const TreeLeaf& leaf = f.leaves[at / kLeafPoints];
  const TreeTarget target(targets, p, f.other(block.cloud));
  Walk<TreeTarget, kLanes> walk(target, leaf.point(at % kLeafPoints));
  const int row = leaf.index[at % kLeafPoints];
  if (target.leaf_count > 0) {
    if (walk.start(f.seed[at])) {
      const CurveFrame &own = f.frames[block.cloud], &other = targets.frames[f.other(block.cloud)];
      const bool sizes_differ = much_smaller(own, other) || much_smaller(other, own);
      search_from_afar(walk, sizes_differ, listed[warp]);
    } else {
      visit_uppers(walk, std::false_type());
    }
  }
  const int found = walk.finish();
  if (!valid || lane % kLanes != 0) return;
  const CloudRows rows = cloud_rows(p, block.cloud);
  rows.dist[row] = walk.bound;
  rows.idx[row] = found;
}

// Bytes of device workspace, 256-byte aligned, that launch_tree_search needs.
inline size_t tree_workspace_bytes(int64_t B, int64_t N, int64_t M) {
  Forest forest;
  return lay_out(forest, B, N, M, nullptr);
}

// Whether the grids and the indices of these sizes fit in 31 bits, in this tree and in the small.
inline bool tree_supports(int64_t B, int64_t N, int64_t M) {
  const int64_t most = N > M ? N : M;
  if (most > INT_MAX || B > INT_MAX / 64) return false;
  const int64_t tiles = std::max<int64_t>(1, ceil_div(4 * most, kScanCells));
  const int64_t queries = 2 * ceil_div(most, kQueryThreads / 4);
  return std::max(2 * tiles, queries) <= INT_MAX / std::max<int64_t>(1, B);
}

// Builds the trees of f, whose points will be queries to those of `targets`.
inline void build_trees(KernelChain& chain, const NearestPairParams& p, const Forest& f,
                        const Forest& targets) {
  const unsigned points = grid_size(block_count<kBuildThreads>(f));
  const unsigned frames = grid_size(2 * p.B + ceil_div(f.zeroed_bytes, kClearedPerBlock));
  chain.add(&tree_frames_kernel, {frames, kFrameThreads}, p, f);
  chain.add(&tree_count_kernel, {points, kBuildThreads}, p, f);
  chain.add(&tree_scan_kernel, {grid_size(f.cell_clouds * f.tiles), kScanThreads}, f);
  chain.add(&tree_scatter_kernel, {points, kBuildThreads}, p, f);
  chain.add(&tree_refine_kernel, {grid_size(refine_blocks(f)), kRefineThreads}, f);
  chain.add(&tree_boxes_kernel, {grid_size(block_count<kNodePoints>(f)), kNodePoints}, f, targets);
}

template <int kLanes>
void add_query(KernelChain& chain, const NearestPairParams& p, const Forest& f,
               const Forest& targets) {
  constexpr int kStep = kQueryThreads / kLanes;
  const int64_t blocks = p.dist_y == nullptr ? p.B * ceil_div(p.N, kStep) : block_count<kStep>(f);
  if (blocks == 0) return;
  chain.add(&tree_query_kernel<kLanes>, {grid_size(blocks), kQueryThreads}, p, f, targets);
}

// Builds the trees of f, whose points then are queries to those of `targets`.
inline void build_and_query(KernelChain& chain, const NearestPairParams& p, const Forest& f,
                            const Forest& targets) {
  build_trees(chain, p, f, targets);
  const int64_t queries = p.B * (p.N + (p.dist_y == nullptr ? 0 : p.M));
  auto* add = queries <= kFourLaneQueries  ? &add_query<4>
              : queries <= kTwoLaneQueries ? &add_query<2>
                                           : &add_query<1>;
  add(chain, p, f, targets);
}

// Neighbours of p, with tree_workspace_bytes(B, N, M). If `index` is not null, it holds the trees
// of y (launch_tree_index), only x is searched for, and tree_workspace_bytes(B, N, 0) are enough.
inline cudaError_t launch_tree_search(const NearestPairParams& p, void* workspace, void* index,
                                      cudaStream_t stream) {
  const int64_t built = index == nullptr ? p.M : 0;  // points of y that get a tree here
  if (p.B == 0 || p.N + built == 0) return cudaSuccess;
  if (!tree_supports(p.B, p.N, p.M)) return cudaErrorInvalidValue;
  Forest f, targets;
  lay_out(f, p.B, p.N, built, workspace);
  lay_out(targets, p.B, 0, p.M, index);
  KernelChain chain(stream);
  build_and_query(chain, p, f, index == nullptr ? f : targets);
  return chain.error();
}

// The trees of all y alone, into tree_workspace_bytes(B, 0, M). Of p, whose N must be 0, it reads
// y, y_lengths and the sizes.
inline cudaError_t launch_tree_index(const NearestPairParams& p, void* index, cudaStream_t stream) {
  if (p.B == 0 || p.M == 0) return cudaSuccess;
  if (!tree_supports(p.B, 0, p.M)) return cudaErrorInvalidValue;
  Forest f;
  lay_out(f, p.B, 0, p.M, index);
  KernelChain chain(stream);
  build_trees(chain, p, f, f);
  return chain.error();
}

}  // namespace pointloss
