// SPDX-License-Identifier: MIT
// What brute force (search.cuh) does for the points of a tile: by the blocks of a cluster, or by
// one warp alone.
#pragma once

#include <climits>
#include <cmath>

#include "../../../common/distance.h"
#include "../../shared/cluster.cuh"
#include "../../shared/warp.cuh"
#include "../tuning.cuh"

namespace pointloss {

// One cloud of every pair, and what its points find in the other.
template <class T>
struct BruteForceSide {
  const T* points;         // [B, size, D]
  const int64_t* lengths;  // [B] or null
  T* dist;                 // [B, size]
  int64_t* idx;            // [B, size]
  int64_t size;
};

template <class T>
struct BruteForceParams {
  BruteForceSide<T> side[2];
  int64_t B;
  int64_t tiles[2];      // of a cloud's points that look for a neighbour; 0 if they do not
  int D, warps, blocks;  // axes; warps of a block; blocks of a cluster
};

// kDim 0 reads the dimension from the parameters. kRows: points per lane, up to a unit of 16 bytes.
// kKeeps: a lane keeps the target that attains the least distance, not only its group.
template <int kDimension, int kPointsPerLane, class T>
struct BruteForceTile {
  static constexpr int kDim = kDimension, kUnit = 16 / sizeof(T);
  static constexpr int kRows = kPointsPerLane, kColumns = 4 * kUnit;
  static constexpr bool kKeeps = kRows > 1 && kRows < kUnit;
  static constexpr int kAxes = kDim > 0 && kDim < 8 ? kDim : 8;
  static constexpr int kPoints = 32 * kRows;
  static constexpr int kStride = kColumns + kUnit;  // of an axis, so that storing has no conflicts
  static constexpr int kMostWarps = kRows > 1 ? kBruteWarps : kBruteNarrowWarps;
};

template <int kDim, class T>
using NarrowTile = BruteForceTile<kDim, 1, T>;
template <class T>
using PairTile = BruteForceTile<3, 2, T>;
template <int kDim, class T>
using WideTile = BruteForceTile<kDim, 16 / sizeof(T), T>;

// The least distance that a warp found, and the group of targets that attains it, or the target
// itself if the warp has all of them.
template <class T>
struct Best {
  T dist;
  int where;
};

// Shared memory of a block.
template <class Tile, class T>
struct BruteForceShared {
  T* points;      // [D, kPoints]
  T* targets;     // [warps, kAxes, kStride]
  Best<T>* best;  // [warps, kPoints + 1], likewise

  // Of a warp that searches alone and has no results to share.
  __host__ __device__ static size_t bytes_alone(int D) {
    return sizeof(T) * (Tile::kPoints * D + Tile::kAxes * Tile::kStride);
  }
  __host__ __device__ size_t lay_out(char* memory, int D, int warps) {
    const size_t point_bytes = sizeof(T) * Tile::kPoints * D;
    const size_t target_bytes = sizeof(T) * Tile::kAxes * Tile::kStride * warps;
    points = reinterpret_cast<T*>(memory);
    targets = reinterpret_cast<T*>(memory + point_bytes);
    best = reinterpret_cast<Best<T>*>(memory + point_bytes + target_bytes);
    return point_bytes + target_bytes + sizeof(Best<T>) * (Tile::kPoints + 1) * warps;
  }
};

// kCount numbers of shared memory, a power of two, in loads of up to 16 bytes.
template <int kCount, class T>
__device__ __forceinline__ void load_vector(const T* from, T (&to)[kCount]) {
  constexpr int kMost = 16 / sizeof(T), kUnit = kCount < kMost ? kCount : kMost;
  struct alignas(kUnit * sizeof(T)) Unit {
    T value[kUnit];
  };
#pragma unroll
  for (int k = 0; k < kCount; k += kUnit) {
    const Unit unit = *reinterpret_cast<const Unit*>(from + k);
#pragma unroll
    for (int c = 0; c < kUnit; ++c) to[k + c] = unit.value[c];
  }
}

// One axis of all distances of a lane, as distance() adds it.
template <int kNorm, bool kFirst, int kRows, int kColumns, class T>
__device__ __forceinline__ void add_axis(const T* points, const T* targets,
                                         T (&dist)[kRows][kColumns]) {
  T own[kRows], other[kColumns];
  load_vector(points, own);
  load_vector(targets, other);
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      const T diff = own[r] - other[c];
      if constexpr (kNorm == 1) {
        dist[r][c] = kFirst ? std::fabs(diff) : dist[r][c] + std::fabs(diff);
      } else {
        dist[r][c] = kFirst ? diff * diff : std::fma(diff, diff, dist[r][c]);
      }
    }
  }
}

// The points of one cloud that a cluster or a warp takes, and their targets.
template <class T>
struct BruteForceTask {
  const T *points, *targets;  // [n, D] from the first on; [m, D]
  T* dist;
  int64_t* idx;
  int64_t rows, valid;  // points from the first on; those within the length
  int64_t count;        // targets
  bool bad;             // a length is out of range

  __device__ __forceinline__ BruteForceTask(const BruteForceParams<T>& p, int64_t task,
                                            int tile_points) {
    const bool back = task >= p.B * p.tiles[0];
    const BruteForceSide<T> from = back ? p.side[1] : p.side[0];
    const BruteForceSide<T> to = back ? p.side[0] : p.side[1];
    const int64_t tiles = back ? p.tiles[1] : p.tiles[0];
    if (back) task -= p.B * p.tiles[0];
    const int64_t b = task / tiles, first = task % tiles * tile_points;
    const int64_t n = valid_length(from.lengths, b, from.size);
    const int64_t m = valid_length(to.lengths, b, to.size);
    bad = n < 0 || m < 0;
    points = from.points + (b * from.size + first) * p.D;
    targets = to.points + b * to.size * p.D;
    dist = from.dist + b * from.size + first;
    idx = from.idx + b * from.size + first;
    rows = from.size - first;
    valid = bad || n < first ? 0 : n - first;
    count = valid > 0 ? m : 0;
  }
};

// What this lane's points find in the groups `first`, `first` + `step`, ... of targets. The block,
// or if kAlone the warp, of `threads` brings the points into shared memory.
template <int kNorm, bool kAlone, class Tile, class T>
__device__ __forceinline__ void search_groups(const BruteForceTask<T>& t, int D, int threads,
                                              int first, int step, T* points, T* own_targets,
                                              Best<T> (&best)[Tile::kRows]) {
  constexpr int kAxes = Tile::kAxes, kColumns = Tile::kColumns, kRows = Tile::kRows;
  constexpr int kValues = kAxes * kColumns, kLoads = (kValues + 31) / 32;
  const int lane = threadIdx.x % 32;
  const int groups = static_cast<int>((t.count + kColumns - 1) / kColumns);
  T next[kLoads];
  const auto fetch = [&](int group, int axis) {
#pragma unroll
    for (int l = 0; l < kLoads; ++l) {
      const int v = lane + 32 * l, k = axis + v % kAxes;
      const int64_t j = int64_t{group} * kColumns + v / kAxes;
      const int64_t at = kAxes == Tile::kDim ? int64_t{group} * kValues + v : j * D + k;
      const bool there =
          v < kValues && k < D && (kAxes == Tile::kDim ? at < t.count * D : j < t.count);
      next[l] = there ? t.targets[at] : T(NAN);  // nobody's neighbour
    }
  };
  if (first < groups) fetch(first, 0);
  for (int v = kAlone ? lane : threadIdx.x; v < Tile::kPoints * D; v += threads) {
    const int q = v % Tile::kPoints;
    points[v] = q < t.valid ? t.points[int64_t{q} * D + v / Tile::kPoints] : T(0);
  }
  kAlone ? __syncwarp() : __syncthreads();
  for (int group = first; group < groups; group += step) {
    T dist[kRows][kColumns];
    for (int axis = 0; axis < D; axis += kAxes) {
      __syncwarp();  // the axes before have been read
#pragma unroll
      for (int l = 0; l < kLoads; ++l) {
        const int v = lane + 32 * l;
        if (v < kValues) own_targets[v % kAxes * Tile::kStride + v / kAxes] = next[l];
      }
      __syncwarp();
      const bool last = axis + kAxes >= D;
      if (!last || group + step < groups)
        fetch(last ? group + step : group, last ? 0 : axis + kAxes);
      const T* own_points = points + axis * Tile::kPoints + lane * kRows;
      const int axes = D - axis < kAxes ? D - axis : kAxes;
      int k = 0;
      if (axis == 0) add_axis<kNorm, true>(own_points, own_targets, dist), k = 1;
      for (; k < axes; ++k) {
        add_axis<kNorm, false>(own_points + k * Tile::kPoints, own_targets + k * Tile::kStride,
                               dist);
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if constexpr (kAlone || Tile::kKeeps) {
        int in_group = -1;
#pragma unroll
        for (int c = 0; c < kColumns; ++c) {
          if (dist[r][c] < best[r].dist) best[r].dist = dist[r][c], in_group = c;  // false for NaN
        }
        if (in_group >= 0) best[r].where = group * kColumns + in_group;
      } else {
        T least = dist[r][0];
#pragma unroll
        for (int c = 1; c < kColumns; ++c) least = std::fmin(least, dist[r][c]);  // passes NaN over
        if (least < best[r].dist) best[r] = {least, group};
      }
    }
  }
}

// Writes what point q of the task found: target j at the distance `dist`, none if that is infinite.
template <class T>
__device__ __forceinline__ void write_neighbour(const BruteForceTask<T>& t, int D, int q, T dist,
                                                int64_t j) {
  if (q >= t.rows) return;
  const bool valid = q < t.valid, found = valid && dist < INFINITY;
  const bool nan = t.bad || (valid && !found && has_nan(t.points + int64_t{q} * D, D));
  t.dist[q] = nan ? T(NAN) : valid ? dist : T(0);
  t.idx[q] = found ? j : -1;
}

// The neighbours of a tile's points from what the warps of a block kept.
template <class Tile, class T>
__device__ __forceinline__ void choose_kept(const BruteForceParams<T>& p,
                                            const BruteForceTask<T>& t, int D,
                                            const Best<T>* results) {
  for (int q = threadIdx.x; q < Tile::kPoints; q += 32 * p.warps) {
    Best<T> best = {T(INFINITY), -1};
#pragma unroll 4
    for (int w = 0; w < p.warps; ++w) {
      const Best<T> other = results[w * (Tile::kPoints + 1) + q];
      const bool closer =
          other.dist < best.dist || (other.dist == best.dist && other.where < best.where);
      if (closer) best = other;
    }
    write_neighbour(t, D, q, best.dist, best.where);
  }
}

// By the blocks of a cluster, of which this is the one numbered `rank`.
template <int kNorm, class Tile, class T>
__device__ __forceinline__ void search_task(const BruteForceParams<T>& p, int64_t task, int rank,
                                            char* memory) {
  constexpr int kTeam = Tile::kColumns, kRows = Tile::kRows;
  const int D = Tile::kDim > 0 ? Tile::kDim : p.D;
  BruteForceShared<Tile, T> shared;
  shared.lay_out(memory, D, p.warps);
  const auto meet = [&] { p.blocks > 1 ? cluster_barrier() : __syncthreads(); };
  const BruteForceTask<T> t(p, task, Tile::kPoints);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, slices = p.warps * p.blocks;
  Best<T> best[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) best[r] = {T(INFINITY), Tile::kKeeps ? -1 : INT_MAX};
  search_groups<kNorm, false, Tile>(t, D, 32 * p.warps, rank + p.blocks * warp, slices,
                                    shared.points,
                                    shared.targets + warp * Tile::kAxes * Tile::kStride, best);
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    shared.best[warp * (Tile::kPoints + 1) + lane * kRows + r] = best[r];
  }
  meet();
  if constexpr (Tile::kKeeps) {
    choose_kept<Tile>(p, t, D, shared.best);
    __syncthreads();  // all have read the results
    return;
  }
  // Each block answers for its share of the points; a multiple of the teams of a warp. A team takes
  // kRows of them at a time, so that it waits once for all that it reads.
  const int share = Tile::kPoints / p.blocks, end = (rank + 1) * share;
  const int teams = 32 * p.warps / kTeam, member = threadIdx.x % kTeam;
  for (int first = rank * share + threadIdx.x / kTeam; first < end; first += kRows * teams) {
    Best<T> least[kRows];
    T dist[kRows] = {};  // of the member's target
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int q = first + r * teams;
      least[r] = {T(INFINITY), INT_MAX};
#pragma unroll 1
      for (int s = member; q < end && s < slices; s += kTeam) {
        const int block = p.blocks > 1 ? s / p.warps : 0;
        const Best<T>* row = shared.best + (s - block * p.warps) * (Tile::kPoints + 1) + q;
        const Best<T> other = p.blocks > 1 ? *in_block(row, block) : *row;
        const bool closer = other.dist < least[r].dist ||
                            (other.dist == least[r].dist && other.where < least[r].where);
        if (closer) least[r] = other;
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const T nearest = group_min<kTeam>(least[r].dist);
      const int group = group_min<kTeam>(least[r].dist == nearest ? least[r].where : INT_MAX);
      least[r] = {nearest, group};
    }
    if (t.count > 0) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        // Who has nothing to compute reads the first point, since a branch would wait for each.
        const int q = first + r * teams;
        const int64_t j = int64_t{least[r].where} * kTeam + member;
        const int64_t own = q < t.valid ? q : 0, other = j < t.count ? j : 0;
        dist[r] = distance<kNorm, Tile::kDim>(t.points + own * D, t.targets + other * D, 1, D);
        if (j >= t.count) dist[r] = T(NAN);
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int q = first + r * teams;
      const unsigned attain = __ballot_sync(kWholeWarp, dist[r] == least[r].dist);
      const int64_t j = int64_t{least[r].where} * kTeam + __ffs(attain >> (threadIdx.x % 32)) - 1;
      if (member == 0 && q < end) write_neighbour(t, D, q, least[r].dist, j);
    }
  }
  meet();  // all have read this block's results
}

// By one warp, with memory of its own.
template <int kNorm, class Tile, class T>
__device__ __forceinline__ void search_alone(const BruteForceParams<T>& p, int64_t task,
                                             char* memory) {
  static_assert(Tile::kRows == 1);
  const int D = Tile::kDim > 0 ? Tile::kDim : p.D, lane = threadIdx.x % 32;
  BruteForceShared<Tile, T> shared;
  shared.lay_out(memory, D, 1);
  const BruteForceTask<T> t(p, task, Tile::kPoints);
  Best<T> best[1] = {{T(INFINITY), -1}};
  search_groups<kNorm, true, Tile>(t, D, 32, 0, 1, shared.points, shared.targets, best);
  write_neighbour(t, D, lane, best[0].dist, best[0].where);
  __syncwarp();  // all have read this warp's points
}

}  // namespace pointloss
