// SPDX-License-Identifier: MIT
// Nearest neighbours of large clouds, both directions in one call, exact.
//
// Problem: for every point of one cloud of 3-D points its nearest in the other, ties to the lowest
// index, bit for bit what brute force gives.
// Method: both clouds become trees of boxes along the Hilbert curve (nearest_tree_sort.cuh,
// nearest_tree_refine.cuh, nearest_tree_boxes.cuh), and the points of one walk the tree of the
// other (nearest_tree_walk.cuh), a warp the neighbours on the curve.
//
// Map of the query: a warp = 32 / kLanes points in curve order, or one of nearest_tree_lone.cuh;
// query_place() gives the order of blocks. Each kernel is launched while the one before still runs
// (KernelChain).
//
// Cost: O(N + M) building, O(N + M) memory; a query on a surface or in a volume scans a few leaves.
// Ten million points against ten million: 7.5 ms on a surface, 9.7 ms in a volume, with 1.24 GB of
// workspace beside 0.48 GB of clouds and results.
//
// Guaranteed: deterministic results (the order inside a cell is not, and does not matter), no host
// synchronisation, any lengths; sizes alone fix the launches.
//
// Roofline (H200, both directions of two samples of a surface). Leaves that a query scans: 3.0 with
// one lane a query and 3.6 with two at 131072 points, 3.5 and 4.0 at a million, so 48 to 64 pairs;
// boxes that it tests itself: 17 and 10. A pair costs 7.3 issue slots in the scan of a leaf (in the
// SASS for sm_90, 16 pairs: 96 of arithmetic, 8 of minimum, 12 of loads). For a million points that
// is 3.5 * 16 * 7.3 slots a query, 27 million for the 65536 warps of 32, which 132 multiprocessors
// with 4 schedulers issue in 26 us at 1.98 GHz; the query kernel takes 385 us, so pairs are 7 % of
// it. The walk around them and the leaves' lines, which differ from lane to lane, are the rest.
// Building moves about 120 bytes a point, 56 us at 4.3 TB/s for two clouds of a million, of 230 us
// taken: random access in counting (48) and scattering (73) and the instructions of the boxes
// kernel (110) cost more.
//
// With an index of y (launch_nearest_index, launch_nearest_query) one direction at a million points
// takes 329 us instead of 451 (the index 126, once); 16384 points in a million 59 instead of 183;
// 131072 in as many 70 instead of 79.
//
// Profiled (ncu) at 131072 points of a surface, two lanes a query: 2040 instructions a warp of 16
// queries, 57 % of the issue slots, 84 % hits in L1 and 89 % in L2. All of x in a blob inside of y,
// before nearest_tree_far.cuh: 14400 instructions and 71 %. There a warp visited 12 nodes instead
// of 3 and scanned 26 to 36 leaves a query instead of 3.7, though with boxes and discs at the final
// bound 10 nodes and 7 to 17 leaves would do; a third of the time went to x asking y, the rest to y
// asking the blob.
//
// Did not pay: leaves of 8 (4 to 10 % slower on surfaces); two lanes a query for a million points
// (15 % slower; below 2^19 queries they hide latency instead); ordering every node in its own box
// (a guess by cells then misses its leaf: 60 % slower); fewer cells (5 % at a million); 6 blocks of
// queries a multiprocessor without spilling instead of 8 with some (4 to 8 % slower); for the
// blob, one lane a query at 131072 points (x asks y in 93 us instead of 158, but y the blob in 337
// instead of 290, where the longest warps have three times the mean work), and each lane scanning a
// leaf for the query in the middle before all queries scan it (no gain at 131072 points, 5 % at a
// million).
//
// Away from surfaces, us at 131072 / at a million, where a surface takes 103 / 631: volume 116 /
// 759; half in a hundredth of the size 156 / 1099; line 231 / 1550; 20 clusters of 0.003 244 /
// 1829; all of x in a blob of a hundredth, far from y, 315 / 2470 (491 / 3826 before there were
// nearest_tree_far.cuh, nearest_tree_lone.cuh and the order of query_place()). Also tried for that
// blob, exact, and worse: blocks of 128 queries that share a list of leaves before the walks (849 /
// 3123), or after them with one warp a query for the rest (544 / 4163): few blocks or queries take
// most of the time there, each as a chain of dependent loads. One lane a query for x alone: 341.
#pragma once

#include "nearest_tree_boxes.cuh"
#include "nearest_tree_far.cuh"
#include "nearest_tree_refine.cuh"
#include "nearest_tree_walk.cuh"

namespace pointloss {

constexpr int kQueryThreads = 128;
constexpr int kBlocksPerLone = kLeafPoints / (kQueryThreads / 32);  // a warp a point of a leaf
constexpr int kLoneBlocks = kLoneLeaves * kBlocksPerLone;
constexpr int64_t kMostLonePairs = 2;  // of more, others have work when the longest warps run
constexpr int64_t kFourLaneQueries = 1 << 16, kTwoLaneQueries = 1 << 19;  // measured on an H200

// Where a block's queries begin. Blocks of lone queries come first, then those of x, then of y, but
// those of y before if x is much the smaller cloud (as the first pair has it). Queries far from a
// small cloud take longest, and what starts last ends alone.
struct QueryPlace : BlockPlace {
  bool alone;
};

template <int kLanes>
__device__ __forceinline__ QueryPlace query_place(const NearestPairParams& p, const Forest& f) {
  constexpr int kWarps = kQueryThreads / 32, kStep = kQueryThreads / kLanes;
  int64_t task = blockIdx.x;
  if (kLanes > 1 && f.lone_clouds > 0) {
    if (task < kLoneBlocks) {
      if (task / kBlocksPerLone >= *f.lone_count) return {{0, INT_MAX}, true};
      const int64_t leaf = f.lone[task / kBlocksPerLone], cloud = f.cloud_of(leaf);
      const int64_t first = leaf * kLeafPoints - f.within(cloud, f.capacity);
      return {{cloud, first + task % kBlocksPerLone * kWarps}, true};
    }
    task -= kLoneBlocks;
  }
  if (p.dist_y != nullptr && much_smaller(f.frames[0], f.frames[f.B])) {
    const int64_t of_x = f.B * ceil_div(f.N, kStep), of_y = f.B * ceil_div(f.M, kStep);
    task += task < of_y ? of_x : -of_y;
  }
  return {block_place<kStep>(f, task), false};
}

// The clouds of f ask those of `others`, which may be f itself.
template <int kLanes>
__global__ void __launch_bounds__(kQueryThreads, 8)
    tree_query_kernel(const NearestPairParams p, const Forest f, const Forest others) {
  __shared__ float4 listed[kQueryThreads / 32][kListed];
  follow_previous_kernel();
  const QueryPlace block = query_place<kLanes>(p, f);
  const int count = f.count[block.cloud], lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t first = block.first + warp * (block.alone ? 1 : 32 / kLanes);
  if (first >= count) return;
  const int64_t place = first + (block.alone ? 0 : lane / kLanes);
  const bool valid = place < count;
  const int64_t at = f.within(block.cloud, f.capacity) + (valid ? place : count - 1);
  const TreeLeaf& leaf = f.leaves[at / kLeafPoints];
  const TreeTarget target(others, p, f.other(block.cloud));
  Walk<TreeTarget, kLanes> walk(target, leaf.point(at % kLeafPoints));
  const int row = leaf.index[at % kLeafPoints];
  if (target.leaf_count > 0) {
    const int guess = f.guess[at];
    if (kLanes > 1 && !block.alone && __all_sync(kWholeWarp, guess == kAskedAlone)) return;
    if (walk.start(guess)) {
      const CurveFrame &own = f.frames[block.cloud], &other = others.frames[f.other(block.cloud)];
      const bool sizes_differ = much_smaller(own, other) || much_smaller(other, own);
      answer_from_afar(walk, sizes_differ, listed[warp]);
    } else {
      visit_uppers(walk, Known<false>());
    }
  }
  const int found = walk.finish();
  if (!valid || lane % (block.alone ? 32 : kLanes) != 0) return;
  const CloudRows rows = cloud_rows(p, block.cloud);
  rows.dist[row] = walk.bound;
  rows.idx[row] = found;
}

// Bytes of device workspace, 256-byte aligned, that launch_nearest_tree needs.
inline size_t nearest_tree_workspace(int64_t B, int64_t N, int64_t M) {
  Forest forest;
  return lay_out(forest, B, N, M, nullptr);
}

// Whether the grids and the indices of these sizes fit in 31 bits, in this tree and in the small.
inline bool nearest_tree_supports(int64_t B, int64_t N, int64_t M) {
  const int64_t most = N > M ? N : M;
  if (most > INT_MAX || B > INT_MAX / 64) return false;
  const int64_t tiles = std::max<int64_t>(1, ceil_div(4 * most, kScanCells));
  const int64_t queries = 2 * ceil_div(most, kQueryThreads / 4);
  return std::max(2 * tiles, queries) <= INT_MAX / std::max<int64_t>(1, B);
}

// Builds the trees of f, whose points will ask those of `others`.
inline void build_trees(KernelChain& chain, const NearestPairParams& p, const Forest& f,
                        const Forest& others) {
  const int64_t points = block_count<kBuildThreads>(f);
  const int64_t clearing = ceil_div(f.zeroed_bytes, kClearedPerBlock);
  chain.add(&tree_frames_kernel<1024>, {grid_size(2 * p.B + clearing), 1024}, p, f);
  chain.add(&tree_count_kernel<kBuildThreads>, {grid_size(points), kBuildThreads}, p, f);
  chain.add(&tree_scan_kernel<kScanCells / 4>, {grid_size(f.cell_clouds * f.tiles), kScanCells / 4},
            f);
  chain.add(&tree_scatter_kernel<kBuildThreads>, {grid_size(points), kBuildThreads}, p, f);
  chain.add(&tree_refine_kernel, {grid_size(refine_blocks(f)), kRefineThreads}, f);
  chain.add(&tree_boxes_kernel<kNodePoints>, {grid_size(block_count<kNodePoints>(f)), kNodePoints},
            f, others);
}

template <int kLanes>
void add_query(KernelChain& chain, const NearestPairParams& p, const Forest& f,
               const Forest& others) {
  constexpr int kStep = kQueryThreads / kLanes;
  const int64_t blocks = p.dist_y == nullptr ? p.B * ceil_div(p.N, kStep) : block_count<kStep>(f);
  const int64_t lone = f.lone_clouds > 0 ? kLoneBlocks : 0;
  if (blocks > 0)
    chain.add(&tree_query_kernel<kLanes>, {grid_size(lone + blocks), kQueryThreads}, p, f, others);
}

// Builds the trees of f, whose points then ask those of `others`.
inline void build_and_ask(KernelChain& chain, const NearestPairParams& p, Forest& f,
                          const Forest& others) {
  const int64_t asking = p.dist_y == nullptr ? 1 : 2;  // clouds of a pair
  // Lanes a query: more where the queries alone would leave the device waiting for memory.
  const int64_t queries = p.B * (p.N + (asking == 1 ? 0 : p.M));
  const int lanes = queries <= kFourLaneQueries ? 4 : queries <= kTwoLaneQueries ? 2 : 1;
  f.lone_clouds = lanes == 1 || p.B > kMostLonePairs ? 0 : asking * p.B;
  build_trees(chain, p, f, others);
  if (lanes == 4) return add_query<4>(chain, p, f, others);
  if (lanes == 2) return add_query<2>(chain, p, f, others);
  add_query<1>(chain, p, f, others);
}

inline cudaError_t launch_nearest_tree(const NearestPairParams& p, void* workspace,
                                       cudaStream_t stream) {
  if (p.B == 0 || (p.N == 0 && p.M == 0)) return cudaSuccess;
  if (!nearest_tree_supports(p.B, p.N, p.M)) return cudaErrorInvalidValue;
  Forest f;
  lay_out(f, p.B, p.N, p.M, static_cast<char*>(workspace));
  KernelChain chain(stream);
  build_and_ask(chain, p, f, f);
  return chain.error();
}

// The trees of all y alone, into nearest_tree_workspace(B, 0, M) bytes, for launch_nearest_query.
// Of p, whose N must be 0, it reads y, y_lengths and the sizes.
inline cudaError_t launch_nearest_index(const NearestPairParams& p, void* index,
                                        cudaStream_t stream) {
  if (p.B == 0 || p.M == 0) return cudaSuccess;
  if (!nearest_tree_supports(p.B, 0, p.M)) return cudaErrorInvalidValue;
  Forest f;
  lay_out(f, p.B, 0, p.M, static_cast<char*>(index));
  KernelChain chain(stream);
  build_trees(chain, p, f, f);
  return chain.error();
}

// Neighbours of x in the y that `index` was built of, with nearest_tree_workspace(B, N, 0) bytes.
inline cudaError_t launch_nearest_query(const NearestPairParams& p, void* index, void* workspace,
                                        cudaStream_t stream) {
  if (p.B == 0 || p.N == 0) return cudaSuccess;
  if (!nearest_tree_supports(p.B, p.N, p.M)) return cudaErrorInvalidValue;
  Forest f, others;
  lay_out(f, p.B, p.N, 0, static_cast<char*>(workspace));
  lay_out(others, p.B, 0, p.M, static_cast<char*>(index));
  KernelChain chain(stream);
  build_and_ask(chain, p, f, others);
  return chain.error();
}

}  // namespace pointloss
