// SPDX-License-Identifier: MIT
// Constants of the CUDA assignment solvers that set their speed; no certificate depends on them.
//
// Those that the CPU shares are in common/assign.h, numeric ranges and bounds beside the code that
// needs them. "H200": measured on one NVIDIA H200 with 32 pairs of 2048 points, certified to 1 %,
// in 2026-11; "emulated": counted by a simulation of the solver or by tests/emulator. "Chosen": not
// varied. "Surface", "noisy copy" and "blob" are the clouds of benchmarks/bench_assign.py.
#pragma once

#include <cstdint>

namespace pointloss {

// Threads of a block of the integer solvers, which wait for latency: many warps hide it. H200: 768
// (no spills) take the same time, 512 take 20 % longer.
constexpr int kIntegerThreads = 1024;
constexpr int kIntegerWarps = kIntegerThreads / 32;
// Threads of a block of the general solver: its double arithmetic needs more than the 64 registers
// that 1024 leave a thread.
constexpr int kGeneralThreads = 512;
constexpr int kGeneralWarps = kGeneralThreads / 32;
// Most blocks for a cloud: what every GPU with clusters can hold. H200: a cluster of 4 is slower
// than one of 3 where 4 do not all fit at once, so fewer are launched then.
constexpr int kMaxCluster = 8;

// Fewest blocks of a team; fewer are no faster than one block without what a team needs. H200, 1 %,
// torus: 8 x 8192 with 4 blocks each takes 95 ms, with 8 blocks 98; 140 x 5000 with a team of one
// block each 193, without a team 89.
constexpr int kLeastTeam = 4;

// Which solver. Up to kSmallObjects objects, which fit shared memory, the one for equal sizes takes
// clouds of any ratio; beyond, clouds that differ by at most 1 / kDummyPart of the smaller. H200,
// 2048 in 2560: 6 (surface) to 8 ms (two clusters), where dummies that bid for themselves took 67
// and 32.
constexpr int64_t kSmallObjects = 4096;
constexpr int kDummyPart = 4;
// Larger clouds than this have not been tried: the general solver takes equal sizes.
constexpr int64_t kEqualMostPoints = 1 << 18;
constexpr int64_t kUnequalMostPoints = int64_t{1} << 26;
// Up to this size, ids of 16 bits: they and the arrays must fit shared memory.
constexpr int64_t kShortIds = 60000;

// Equal sizes: phases. An auction stops when this part of the bidders (at least kLeastLeft, at most
// kMostLeft) has no object. H200, surface: N / 512 takes 1 ms off the paths and adds 2 ms of bids;
// N / 128 adds 2 ms of paths and takes 1 ms off the bids. Emulated: N / 64 left over by coarse
// phases doubles or triples the bids; paths in every phase double the rounds. H200, N / 128 left by
// the last phase alone: level on Cauchy clouds and a torus, 5 to 35 % slower on all others. 4096
// points with 16 and 8 left: surface 19.9 and 14.7 ms, torus 18.3 and 14.1, noisy 9.2 and 8.8,
// Cauchy 34.9 and 43.4.
constexpr float kLeftPart = 0x1p-8f;
constexpr int kLeastLeft = 4, kMostLeft = 8;
// The same with more than kSmallObjects objects. H200, torus, 1 x 16384: with 64, 32, 16, 8 left
// the auctions take 12, 27, 56, 108 ms and the paths 298, 202, 92, 54; 8 x 8192: with 32, 16, 8
// left 24, 41, 70 and 141, 55, 32 ms.
constexpr float kLargeLeftPart = 0x1p-10f;
constexpr int kLargeLeastLeft = 16;
// The last eps is this many times the gap per bidder that is wanted: the mean slack is well below
// eps. H200: at 1.6, blobs miss the gap narrowly and need another phase.
constexpr double kLastEps = 1.4;
// An auction is given up after this many bids of a warp per turn over all bidders, of a block's or
// a team's warps. H200, 1 x 16384, Cauchy: 688 ms; 1523 where a team's bound was that of one block,
// sixteen times as many.
constexpr int kPhaseTurns = 64;
// After this many of one block's where all bidders coincide with objects: the rest is a price war,
// as among duplicates, which paths end. Emulated: 2048 points in four places take 640 rounds at 8,
// 352 at 4, 208 at 2 and 378 at 1, in 27 places 773, 488, 315 and 203, with more rows in each.
constexpr int kCoincidentTurns = 4;
constexpr int kMaxPhases = 64;
// If even eps = 1 leaves a relative gap above this, costs differ by too much for integers. Chosen.
constexpr double kCoarseGap = 1e-3;

// Equal sizes: first eps of a cold start, in mean nearest costs. H200, 8 instead of 4: surfaces, a
// torus and Cauchy clouds take 6 to 12 % less, noisy copies 6 % more; 1 takes a
// fifth longer, 0.5 takes 50 % longer; noisy copies gain 10 % at 0.5. A first eps that starts small
// and grows takes 5 to 18 % longer on surfaces.
constexpr double kOpeningEps = 8.0;
// The same with more than kSmallObjects objects, where 8 has not been timed.
constexpr double kLargeOpeningEps = 4.0;
constexpr double kNearEps = 0.5;
// More objects than bidders need less: at most this, divided by spare objects per bidder. Emulated
// at 1024 bidders on a torus: 20 % fewer rounds at 5 / 4, half at 2.
constexpr double kSpareEps = 0.5;
// Variance / mean of the number of best objects per group of 32. Two samples of one surface have
// 1.6 to 1.7 with a standard deviation of 1.7 sqrt(64 / N), noisy copies 0.3 to 0.6, a cloud that
// prefers a few objects hundreds. kNearEps is used three standard deviations below the first
// number, or above the second.
constexpr double kTwoSamples = 1.7, kFarCloud = 16.0;
// Where the nearest costs are 0, prices of the centre are taken only if objects are this many times
// as far from it as bidders. Emulated: else duplicates begin with coarse phases of price wars.
constexpr double kFarAsExtent = 2.0;
// First eps after prices of the centre (opening.cuh), as a part of the mean error of those. H200,
// blob: 77 instead of 470 bids in a row, 1.1 instead of 6.4 ms.
constexpr double kCentreEps = 0.05;
// First eps of a warm start. If the given prices fit (best objects spread evenly: variance / mean
// < kWarmUneven, or every sampled object misses by less than kWarmMiss target gaps), start at the
// mean miss; otherwise at the mean best value. Measured on trainings on an H200: blobs have 1.3 to
// 1.6, rarely 2.1 and two of 256 clouds miss by 2 or more. After an epoch of training a finer eps
// costs several times a cold start.
constexpr double kWarmUneven = 1.0, kWarmMiss = 2.0;
// Abandon the fine start after this many bids of a warp per turn of all bidders. Chosen.
constexpr int kWarmTurns = 8;
// Objects from which misses are estimated. Chosen.
constexpr int kSampledObjects = 128;

// Equal sizes: auction. A scan takes in what lies within this many eps of the second best, so that
// its cache lasts. Chosen.
constexpr int kSlackEps = 2;
// A bid may go to a cached object that misses the best by up to this many eps, instead of a scan:
// in a price war nearly all objects are as good as they were when they were seen. The next phase
// frees whoever that leaves with too much slack. H200, without it and with 1, 4,
// 8: 27.4, 16.1, 14.0, 13.8 ms on Cauchy clouds, 7.3, 6.7, 6.7, 7.5 on a torus; 1 x 65536 noisy
// with 4 and 8: 150, 196.
constexpr float kRelaxEps = 4.0f;
// The same of the last phase. Emulated: at 1, blobs miss the gap and need another phase.
constexpr float kLastRelaxEps = 0.5f;
// The same of scans by warps without a bidder, and how many ns these rest between two. H200, at 2
// or 4: Cauchy 24.4 instead of 32.1 ms, a torus 6.9 and 6.6 instead of 7.1; without a rest as fast.
constexpr int kAheadEps = 4;
constexpr unsigned kRest = 500;
// Bidders of a deterministic round: the warps of this many blocks, fewer in small clouds. Chosen.
constexpr int kRoundBlocks = 4;

// Equal sizes: augmenting paths. Distances are rounded down to the largest power of two of at most
// this many eps. H200: at 1, paths take a fifth longer; at 8, some clouds miss the gap.
constexpr float kQuantumEps = 4.0f;
// Bidders that one search starts from: a thread each.
constexpr int kMaxSources = kIntegerThreads;
// Blocks of a cluster share a round of more rows than this; one block has the others to itself. A
// row takes one block 70 (torus) to 150 ns (Cauchy clouds, blobs). H200, at 64, 128 and 256: 11.2,
// 11.9, 11.8 ms on Cauchy clouds, 13.5 if no round is shared; a torus 6.0, 5.9, 5.9 and 6.1.
constexpr int kSharedRows = 128;
// A bucket whose first frontier has fewer rows than the first number doubles the width of the next
// bucket; more rows than the second number halve it. Later frontiers say nothing: a bucket ends
// with a tail of few rows. Emulated: a fixed width takes up to 60 us a round on blobs.
constexpr int kNarrowFrontier = 8, kWideFrontier = 32;
// Labels more than this many quanta beyond the nearest free object are left out: they are needed
// only after a root is matched, when all rows offer theirs again. At least 1. Chosen.
constexpr int kBeyondFree = 4;
// A frontier of more rows than the first number looks ahead (look_ahead.cuh) if at most kMaxFree
// objects are free; it is cut to kMaxRows if it finds nothing within the bucket. H200, 0.1 %: a
// blob takes 1.75 instead of 2.3 ms.
constexpr int kLookAhead = 64, kMaxRows = 128, kMaxFree = 32;

// Unequal sizes. Bidders of a round: the warps of four blocks. Chosen.
constexpr int kRoundBids = 128;
// A bid raises a price by at most this many eps beyond the first. Chosen.
constexpr int kMostRaise = 2;
// First eps of a cold start, in mean nearest costs; after prices of the centre, as a part of their
// mean error. Chosen by emulation.
constexpr double kUnequalOpening = 0.25, kUnequalCentreEps = 0.1;
// Prices come down by kShift eps between two phases, and by twice as many after each phase whose
// gap is due to prices of unowned objects. Beyond kMaxShift they also come down by the highest of
// those prices, and eps grows to 1 / kDropEps of that: such an object is the last of a chain of
// overpriced ones, which must all come down. Chosen by emulation.
constexpr int kShift = 2, kMaxShift = 8;
constexpr double kDropEps = 8.0;
// The gap counts as due to unowned objects if their prices exceed this part of it. Chosen.
constexpr double kUnownedPart = 0.3;

}  // namespace pointloss
