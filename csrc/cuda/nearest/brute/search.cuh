// SPDX-License-Identifier: MIT
// Nearest neighbours by brute force: each point of one cloud against all of the other, in one
// direction or both, exact, for any dimension.
//
// Method: as a matrix product is blocked, with differences in place of products. A lane keeps
// kRows x kColumns distances in registers and adds one axis after the other to all of them.
// Map: a cluster of blocks takes 32 * kRows points that look for a neighbour, in shared memory, a
// lane kRows of them; the warps of all its blocks share the targets in groups of kColumns, which
// each warp brings into shared memory for itself, kAxes axes at a time, while it computes with
// those before. Then the warps' results meet in shared memory, and a team of kColumns lanes
// computes the distances of the best group again to find who attains the least. If the tiles alone
// fill the device and targets are few, finding that out would take longer than the search: each
// warp then takes a tile with all its targets and keeps the index of the best beside its distance.
// Cost: N * M distances, no workspace. For float and norm 2 a pair takes 2 issue slots per axis and
// 1.4 to choose, or 3 with the index.
// Guarantee: ties take the lowest index, because of two groups with the same least distance the
// first stays, and in it the first lane that attains it. So how targets are shared out changes
// nothing, and no bit depends on the order of events.
#pragma once

#include <algorithm>

#include "../../shared/launch.cuh"
#include "tile.cuh"

namespace pointloss {

template <int kNorm, class Tile, class T>
__global__ void __launch_bounds__(32 * Tile::kMostWarps, 2)
    brute_force_kernel(const BruteForceParams<T> p) {
  extern __shared__ float4 dynamic[];
  wait_for_previous_kernel();
  const int64_t tasks = p.B * (p.tiles[0] + p.tiles[1]);
  const int rank = p.blocks > 1 ? cluster_rank() : 0;
  for (int64_t task = blockIdx.x / p.blocks; task < tasks; task += gridDim.x / p.blocks) {
    search_task<kNorm, Tile>(p, task, rank, reinterpret_cast<char*>(dynamic));
  }
}

// Every warp of a block takes tasks of its own.
template <int kNorm, class Tile, class T>
__global__ void __launch_bounds__(32 * kBruteAloneWarps, 8)
    brute_force_alone_kernel(const BruteForceParams<T> p) {
  extern __shared__ float4 dynamic[];
  wait_for_previous_kernel();
  const int64_t tasks = p.B * (p.tiles[0] + p.tiles[1]);
  const int warp = threadIdx.x / 32;
  const size_t bytes = BruteForceShared<Tile, T>::bytes_alone(p.D);
  char* const memory = reinterpret_cast<char*>(dynamic) + warp * bytes;
  for (int64_t task = int64_t{blockIdx.x} * p.warps + warp; task < tasks;
       task += int64_t{gridDim.x} * p.warps) {
    search_alone<kNorm, Tile>(p, task, memory);
  }
}

struct BruteForceShape {
  int rows;           // points per lane
  int warps, blocks;  // of a block; of a cluster

  bool alone() const { return rows == 1 && warps * blocks == 1; }
};

// Tiles of both directions together, if a tile has this many points.
template <class T>
int64_t brute_force_tiles(const BruteForceParams<T>& p, int64_t points) {
  int64_t tiles = 0;
  for (const auto& side : p.side) {
    if (side.dist != nullptr) tiles += p.B * ceil_div(side.size, points);
  }
  return tiles;
}

// First warps are added to a tile, then blocks to its cluster, while they have work and the device
// has room.
template <class T>
BruteForceShape brute_force_shape(const BruteForceParams<T>& p, int multiprocessors,
                                  int most_blocks) {
  using Wide = WideTile<0, T>;
  using Narrow = NarrowTile<0, T>;
  int64_t points = 0, targets = 0;  // of a cloud, at most
  for (int s = 0; s < 2; ++s) {
    if (p.side[s].dist == nullptr) continue;
    points = std::max(points, p.side[s].size), targets = std::max(targets, p.side[1 - s].size);
  }
  const int64_t tiles = brute_force_tiles(p, Narrow::kPoints);
  const int64_t groups = ceil_div(targets, Wide::kColumns);
  const int64_t room = int64_t{kBruteNarrowWarps} * multiprocessors;  // for warps
  if constexpr (PairTile<T>::kKeeps) {
    using Pair = PairTile<T>;
    const int64_t pairs = brute_force_tiles(p, Pair::kPoints);
    if (p.D == 3 && points > Pair::kPoints / 2 && targets <= kBrutePairMost &&
        groups >= kBruteLeastWarps && tiles > multiprocessors && kBruteLeastWarps * pairs <= room) {
      const bool much = groups >= 2 * kBrutePairGroups;  // so that half of the room is too little
      const bool more = 2 * kBruteLeastWarps * pairs <= (much ? room : room / 2);
      return {Pair::kRows, more ? 2 * kBruteLeastWarps : kBruteLeastWarps, 1};
    }
  }
  const bool full = points > Wide::kPoints / 2, many = 2 * tiles > 3 * multiprocessors;
  if (full && many && targets > (2 * tiles > room ? kBruteAloneMost : kBruteWideFrom)) {
    const bool half = brute_force_tiles(p, Wide::kPoints) <= multiprocessors;
    return {Wide::kRows, Wide::kMostWarps, half ? std::min(2, most_blocks) : 1};
  }
  const bool few = targets <= kBruteAloneMost;
  if (groups < kBruteLeastWarps || (few && kBruteLeastWarps * tiles > room)) return {1, 1, 1};
  int warps = kBruteLeastWarps, blocks = 1;
  while (warps < Narrow::kMostWarps && warps < groups && 2 * warps * tiles <= room) warps *= 2;
  const auto divides = [&](int64_t slices) {  // with enough left for each
    return slices * tiles <= room && slices <= groups && groups * p.D >= slices * kBruteLeastShare;
  };
  while (warps == Narrow::kMostWarps && blocks < most_blocks && divides(2 * warps * blocks)) {
    blocks *= 2;
  }
  return {1, warps, blocks};
}

template <int kNorm, class Tile, class T>
cudaError_t start_brute_force(BruteForceParams<T> p, const BruteForceShape& shape,
                              cudaStream_t stream) {
  using Shared = BruteForceShared<Tile, T>;
  for (int s = 0; s < 2; ++s) {
    p.tiles[s] = p.side[s].dist == nullptr ? 0 : ceil_div(p.side[s].size, Tile::kPoints);
  }
  const int64_t tasks = p.B * (p.tiles[0] + p.tiles[1]);
  if (tasks == 0) return cudaSuccess;
  if constexpr (Tile::kRows == 1) {
    if (shape.alone()) {
      const size_t bytes = Shared::bytes_alone(p.D);
      p.warps = std::min(kBruteAloneWarps, static_cast<int>(kBruteShared / bytes));
      return launch_early(&brute_force_alone_kernel<kNorm, Tile, T>,
                          {grid_size(ceil_div(tasks, p.warps)), 32 * p.warps, bytes * p.warps},
                          stream, p);
    }
  }
  p.warps = shape.warps, p.blocks = shape.blocks;
  const auto blocks = static_cast<unsigned>(p.blocks);
  const auto clusters = static_cast<unsigned>(std::min<int64_t>(tasks, INT_MAX / p.blocks));
  const size_t bytes = Shared().lay_out(nullptr, p.D, p.warps);
  return launch_early(&brute_force_kernel<kNorm, Tile, T>,
                      {clusters * blocks, 32 * p.warps, bytes, blocks}, stream, p);
}

// Both directions in one launch, unless one of the clouds is so much smaller that a tile of it has
// far more to do than a tile of the other.
template <int kNorm, class T>
cudaError_t launch_brute_force(const BruteForceParams<T>& p, cudaStream_t stream) {
  constexpr int64_t kPoints = NarrowTile<0, T>::kPoints;
  const int64_t x = ceil_div(p.side[0].size, kPoints), y = ceil_div(p.side[1].size, kPoints);
  const bool both = p.side[0].dist != nullptr && p.side[1].dist != nullptr;
  if (both && std::max(x, y) > 2 * std::min(x, y)) {
    for (int s = 0; s < 2; ++s) {
      BruteForceParams<T> one = p;
      one.side[1 - s].dist = nullptr;
      const cudaError_t error = launch_brute_force<kNorm>(one, stream);
      if (error != cudaSuccess) return error;
    }
    return cudaSuccess;
  }
  int multiprocessors = 0;
  const cudaError_t error = device_attribute(cudaDevAttrMultiProcessorCount, &multiprocessors);
  if (error != cudaSuccess) return error;
  const BruteForceShape shape =
      brute_force_shape(p, multiprocessors, has_overlap_and_clusters() ? kBruteCluster : 1);
  const bool solid = p.D == 3;
  auto* run = shape.rows == 1 ? (solid ? &start_brute_force<kNorm, NarrowTile<3, T>, T>
                                       : &start_brute_force<kNorm, NarrowTile<0, T>, T>)
              : shape.rows == PairTile<T>::kRows && PairTile<T>::kKeeps
                  ? &start_brute_force<kNorm, PairTile<T>, T>
              : solid ? &start_brute_force<kNorm, WideTile<3, T>, T>
                      : &start_brute_force<kNorm, WideTile<0, T>, T>;
  return run(p, shape, stream);
}

}  // namespace pointloss
