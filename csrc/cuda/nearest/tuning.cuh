// SPDX-License-Identifier: MIT
// Tuning constants of nearest and chamfer. They were chosen on an H200; "not measured apart" marks
// those without a comparison of their own. None changes a result, except that the constants of
// chamfer fix the order of its sums. What else was tried is in benchmarks/results/NOTES.md.
#pragma once

#include <cstdint>

namespace pointloss {

// Choice of the method. Up to kBrutePairs distances, of all clouds and both directions together,
// brute force is faster (at as many, 4 pairs of 2048 points took 18 us and a tree 20 to 32, 1 of
// 4096 18 and 27 to 43; at twice as many, 8 of 2048 took 30 and 20 to 32), and for any number of
// clouds of at most kBruteLargest points (4096 pairs of 64 took a tree 148 to 166 us, the former
// brute force 36). With fewer points than kTreeFromSmaller in the smaller cloud it reads the larger
// only once or twice (40 points in a million: 236 us, a tree 180 to 287).
constexpr int64_t kBrutePairs = int64_t{32} << 20, kBruteLargest = 128, kTreeFromSmaller = 64;
// Points of y from which on there is an index of it.
constexpr int64_t kTreeFrom = 256;
// Points of y from which on its k nearest are searched for in a tree. Not measured apart.
constexpr int64_t kTreeFromForK = 8192;
// Clouds of at most this many points are sorted in the shared memory of a block, with 16-bit ids.
constexpr int kSmallMost = 8192;

// Brute force. Narrow: a point per lane, from kBruteLeastWarps to kBruteNarrowWarps warps for a
// tile of 32 points, and as many as the latter per multiprocessor in all (1 pair of 1024 points,
// both directions, in us: 16 warps 5.8, 8 warps 6.6, 4 warps 9.4; 32 pairs of 256: 4 warps 7.5, 8
// warps 7.8, 16 warps 9.9). Then blocks are added to a cluster, if kBruteLeastShare axes of groups
// remain for each warp (1 of 2048, one direction: 2 blocks 7.35, 1 block 7.8; 1 of 1024, both: 6.35
// and 5.8).
// Wide: several points per lane, kBruteWarps for a tile, for more than 1.5 narrow tiles per
// multiprocessor and more than kBruteWideFrom targets (32 of 512: 13.4, narrow 16.0; 32 of 256: 8.7
// and 7.5), in two blocks where all tiles are in progress at once (4 of 2048: 18.1, 1 block 18.9, 4
// blocks 29.0; 1 of 4096: 18.4, 30.2 and 26.2).
// Pair: two points per lane and the target kept beside the distance, 4 warps for a tile or 8 where
// half of the room would stay empty or each had kBrutePairGroups groups and more, for D = 3, float
// and at most kBrutePairMost targets, where narrow tiles outnumber the multiprocessors (32 of 256:
// 4 warps 4.4, 8 4.7, narrow 6.2; 32 of 512: 9.6, 11.8, wide 11.1; 4 of 1024: 8 warps 6.5, narrow
// 7.2, wide 8.2; 4 of 2048: 8 warps 16.3, wide 16.0).
// Alone: a warp for a tile, kBruteAloneWarps of a block, for at most kBruteAloneMost targets where
// there is no room for kBruteLeastWarps; instead of wide only if half of the room is filled. Not
// measured apart.
constexpr int kBruteWarps = 8, kBruteNarrowWarps = 16, kBruteLeastWarps = 4, kBruteCluster = 8;
constexpr int kBruteLeastShare = 12, kBruteWideFrom = 256;
constexpr int kBrutePairMost = 1024, kBrutePairGroups = 16;
constexpr int kBruteAloneWarps = 4, kBruteAloneMost = 512;
constexpr int kBruteShared = 48 << 10;  // bytes that a block has without asking for more

// Brute force for k: values of y in shared memory. 512 points of 3 doubles are 12 KB, so several
// blocks share a multiprocessor. Not measured apart.
constexpr int kBruteThreads = 256, kTileValues = 1536;

// chamfer: rows of a partial sum, and partial sums of a value up to which a warp adds them. Not
// measured apart.
constexpr int kPartialThreads = 256, kPartialRows = 256;
constexpr int kTotalThreads = 512, kTotalByWarp = 64;

// Points of a leaf. With 8 a warp tests twice as many boxes, which was 4 to 10 % slower on surfaces
// in the tree of large clouds; in the small one 16 took an eighth off the time.
constexpr int kLeafPoints = 16;

// The frame of a curve: bins per axis (a cluster of 1/64 of the extent is still resolved), bits per
// axis of the finest cells (a key has 3 * kGridBits bits), and how many times the share of an even
// cloud a bin has before its cells become finer (3 gives a cluster of half of the points about half
// of the cells along each axis).
constexpr int kFrameBins = 64, kGridBits = 10;
constexpr float kCrowdedBin = 3;
// A cloud is much smaller than another if its grid has this many times more cells per length.
constexpr float kMuchSmaller = 4;

// Tree, building. Cells number two to four times the points; fewer cost 5 % at a million.
constexpr int kLeastKeyBits = 12, kMostKeyBits = 27;
constexpr int kBuildThreads = 256, kFrameThreads = 1024;
constexpr int kScanCells = 4096;           // of a block of the scan, four per thread
constexpr int kClearedPerBlock = 1 << 16;  // bytes
// Points of a cell from which on a node is ordered by the whole block, and from which on the cell
// is sorted again in a frame of its own. Not measured apart.
constexpr unsigned kMostUnordered = 48, kMostInCell = 256;
// Bits per axis of the grid over a node: 512 points of a surface are 23 a side.
constexpr int kNodeBits = 7;
constexpr int kRefineThreads = 512, kRefineBits = 4;
constexpr int kRefineBlocks = 264;  // two per multiprocessor of an H200

// Tree, query. Six blocks per multiprocessor, which spill nothing, were 4 to 8 % slower than eight.
constexpr int kQueryThreads = 128, kQueryBlocks = 8;
// Lanes of a query: 4 up to the first number of queries, 2 up to the second, then 1. More lanes
// hide the latency of few queries; two lanes were 15 % slower at two million queries.
constexpr int64_t kFourLaneQueries = 1 << 16, kTwoLaneQueries = 1 << 19;
// Points that a warp lists for queries from afar, and wanted points, over the square of the lanes
// of a query, from which on it gives the list up. Not measured apart.
constexpr int kListed = 64, kSpare = 4096;

// Small clouds: cells of the curve as a power of two, about two per point. 2^13 for 2048 points did
// not pay.
constexpr int small_cell_bits(int64_t most) { return most <= 512 ? 9 : most <= 4096 ? 12 : 13; }
// Points that were counted into a cell after kMostUnsorted others are out of order there. If more
// than one in kCrowdedShare of all points is, the cells are sorted again: on surfaces fewer than
// one in 12 are, in a cloud of two scales one in 7 or more.
constexpr unsigned kMostUnsorted = 24, kCrowdedShare = 8;
constexpr int kSmallRounds = 3;                 // of sorting again
constexpr unsigned kCrowded = 2 * kLeafPoints;  // cells of more points are split
constexpr unsigned kMostLevels = 3;             // of a round: a warp scans all cells of a segment
constexpr int kPartQueries = 256;               // at least, of each block that shares a direction
// Two lanes share a query if a block has at most this many; with more, 10 % slower at 8192 points.
constexpr int kTwoLaneSmall = 1024;

}  // namespace pointloss
