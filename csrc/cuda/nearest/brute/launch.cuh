// SPDX-License-Identifier: MIT
// Launches brute force with blocks and clusters that suit the clouds' sizes and the device.
#pragma once

#include <algorithm>

#include "../../launch.cuh"
#include "search.cuh"

namespace pointloss {

struct BruteForceShape {
  bool wide;
  int warps, blocks;  // of a block; of a cluster

  bool operator==(const BruteForceShape& other) const {
    return wide == other.wide && warps == other.warps && blocks == other.blocks;
  }
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

// For clouds of `points` against `targets`. Blocks are added to a cluster while each warp has
// targets and multiprocessors wait for blocks.
template <class T>
BruteForceShape brute_force_shape(const BruteForceParams<T>& p, int64_t points, int64_t targets,
                                  int multiprocessors, int most_blocks) {
  using Wide = BruteForceTile<0, true, T>;
  using Narrow = BruteForceTile<0, false, T>;
  const int64_t groups = ceil_div(targets, Wide::kColumns);
  const int64_t slices = std::min<int64_t>(groups, Wide::kMostWarps * most_blocks);
  const bool full = points > Wide::kPoints / 2,
             many =
                 brute_force_tiles(p, Wide::kPoints) * slices >= kBruteWideFrom * multiprocessors;
  BruteForceShape shape{full && many, kBruteLeastWarps, 1};
  const int most_warps = shape.wide ? Wide::kMostWarps : Narrow::kMostWarps;
  while (shape.warps < most_warps && shape.warps < groups) shape.warps *= 2;
  const int64_t tiles = brute_force_tiles(p, shape.wide ? Wide::kPoints : Narrow::kPoints);
  while (shape.blocks < most_blocks && shape.warps * shape.blocks * 2 <= groups &&
         tiles * shape.blocks <= multiprocessors) {
    shape.blocks *= 2;
  }
  return shape;
}

template <int kNorm, class Tile, class T>
cudaError_t start_brute_force(BruteForceParams<T> p, const BruteForceShape& shape,
                              cudaStream_t stream) {
  for (int s = 0; s < 2; ++s) {
    p.tiles[s] = p.side[s].dist == nullptr ? 0 : ceil_div(p.side[s].size, Tile::kPoints);
  }
  const int64_t tasks = p.B * (p.tiles[0] + p.tiles[1]);
  if (tasks == 0) return cudaSuccess;
  p.warps = shape.warps, p.blocks = shape.blocks;
  const auto blocks = static_cast<unsigned>(p.blocks);
  const auto clusters = static_cast<unsigned>(std::min<int64_t>(tasks, INT_MAX / p.blocks));
  const size_t bytes = BruteForceShared<Tile, T>().lay_out(nullptr, p.D, p.warps);
  return launch(&brute_force_kernel<kNorm, Tile, T>,
                {clusters * blocks, 32 * p.warps, bytes, blocks}, stream, p);
}

// Both directions in one launch unless they want blocks of different shapes.
template <int kNorm, class T>
cudaError_t launch_brute_force(const BruteForceParams<T>& p, cudaStream_t stream) {
  int multiprocessors = 0;
  const cudaError_t error = device_attribute(cudaDevAttrMultiProcessorCount, &multiprocessors);
  if (error != cudaSuccess) return error;
  const int most_blocks = has_overlap_and_clusters() ? kBruteCluster : 1;
  const auto shape_of = [&](int from, int to) {
    return brute_force_shape(p, p.side[from].size, p.side[to].size, multiprocessors, most_blocks);
  };
  const auto start = [&](const BruteForceParams<T>& part, const BruteForceShape& shape) {
    const bool solid = p.D == 3;
    auto* run = shape.wide ? (solid ? &start_brute_force<kNorm, BruteForceTile<3, true, T>, T>
                                    : &start_brute_force<kNorm, BruteForceTile<0, true, T>, T>)
                           : (solid ? &start_brute_force<kNorm, BruteForceTile<3, false, T>, T>
                                    : &start_brute_force<kNorm, BruteForceTile<0, false, T>, T>);
    return run(part, shape, stream);
  };
  const BruteForceShape shape = shape_of(0, 1), back = shape_of(1, 0);
  if (p.side[1].dist == nullptr || shape == back) return start(p, shape);
  BruteForceParams<T> there = p, reverse = p;
  there.side[1].dist = nullptr, reverse.side[0].dist = nullptr;
  const cudaError_t first = start(there, shape);
  return first != cudaSuccess ? first : start(reverse, back);
}

}  // namespace pointloss
