// SPDX-License-Identifier: MIT
// Searches one pair of clouds, in both directions, as csrc/cuda/nearest/brute does, in the
// emulator.
//
//   nearest N M D norm double rows warps blocks n m seed stop hold turns
//
// reads x [N, D] and y [M, D] from the standard input, in float64 if `double`, else in float32, and
// writes dist [N], idx [N], dist [M], idx [M]. `warps` of each of `blocks` search, n and m are the
// lengths. A lane has 1 or 2 `rows` of a tile, or as many as in the wide ones. One warp of one
// block with one row searches alone.
#include "../../csrc/cuda/nearest/brute/tile.cuh"
#include "program.h"

using namespace pointloss;

namespace {

// Each warp alone, two of a block.
template <int kNorm, class Tile, class T>
void search_by_warps(const BruteForceParams<T>& p) {
  const size_t bytes = BruteForceShared<Tile, T>::bytes_alone(p.D);
  const int64_t tasks = p.tiles[0] + p.tiles[1];
  for (int64_t first = 0; first < tasks; first += 2) {
    emulated::SharedMemory<int> memory(1, 2 * bytes);
    emulated::launch(1, 64, [&] {
      const int warp = threadIdx.x / 32;
      if (first + warp < tasks) {
        search_alone<kNorm, Tile>(p, first + warp, memory.memory(0) + warp * bytes);
      }
    });
  }
}

template <int kNorm, class Tile, class T>
void search(BruteForceParams<T> p) {
  for (int s = 0; s < 2; ++s) p.tiles[s] = (p.side[s].size + Tile::kPoints - 1) / Tile::kPoints;
  if constexpr (Tile::kRows == 1) {
    if (p.warps * p.blocks == 1) return search_by_warps<kNorm, Tile>(p);
  }
  BruteForceShared<Tile, T> shared;
  const size_t bytes = shared.lay_out(nullptr, p.D, p.warps);
  for (int64_t task = 0; task < p.tiles[0] + p.tiles[1]; ++task) {
    emulated::SharedMemory<int> memory(p.blocks, bytes);
    emulated::launch(p.blocks, 32 * p.warps, [&] {
      const int b = emulated::block();
      search_task<kNorm, Tile>(p, task, b, memory.memory(b));
    });
  }
}

template <int kNorm, int kDim, class T>
void search_by(const BruteForceParams<T>& p, int64_t rows) {
  rows == 1   ? search<kNorm, BruteForceTile<kDim, 1, T>>(p)
  : rows == 2 ? search<kNorm, BruteForceTile<kDim, 2, T>>(p)
              : search<kNorm, WideTile<kDim, T>>(p);
}

template <int kNorm, class T>
void search_by(const BruteForceParams<T>& p, int64_t rows) {
  p.D == 3 ? search_by<kNorm, 3>(p, rows) : search_by<kNorm, 0>(p, rows);
}

template <class T>
void search_clouds(emulated::Arguments& given, int64_t N, int64_t M, int D, int64_t norm) {
  BruteForceParams<T> p{};
  const int64_t rows = given.whole();
  p.B = 1, p.D = D;
  p.warps = static_cast<int>(given.whole()), p.blocks = static_cast<int>(given.whole());
  const int64_t lengths[2] = {given.whole(), given.whole()};
  given.schedule();
  const auto x = emulated::read<T>(N * D), y = emulated::read<T>(M * D);
  std::vector<T> dist_x(N), dist_y(M);
  std::vector<int64_t> idx_x(N), idx_y(M);
  p.side[0] = {x.data(), lengths, dist_x.data(), idx_x.data(), N};
  p.side[1] = {y.data(), lengths + 1, dist_y.data(), idx_y.data(), M};
  norm == 1 ? search_by<1>(p, rows) : search_by<2>(p, rows);
  emulated::write(dist_x), emulated::write(idx_x), emulated::write(dist_y), emulated::write(idx_y);
}

}  // namespace

int main(int, char** names) {
  emulated::Arguments given{names};
  const int64_t N = given.whole(), M = given.whole();
  const int D = static_cast<int>(given.whole());
  const int64_t norm = given.whole();
  given.flag() ? search_clouds<double>(given, N, M, D, norm)
               : search_clouds<float>(given, N, M, D, norm);
  return 0;
}
