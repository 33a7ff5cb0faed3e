// SPDX-License-Identifier: MIT
// Searches one pair of clouds, in both directions, as csrc/cuda/nearest/tree does, in the emulator.
//
//   tree N M indexed seed stop hold turns
//
// reads x [N, 3] and y [M, 3] in float32 from the standard input and writes dist [N], idx [N],
// dist [M], idx [M]; only the first two, by an index of y, if `indexed`. N and M are multiples of
// 32 and all points finite: lanes that return early are not emulated.
#include <cuda_runtime.h>

#undef __shared__
#define __shared__ static  // of the block that runs
#include "../../csrc/cuda/nearest/tree/search.cuh"
#include "program.h"

using namespace pointloss;

namespace {

// Device memory, in which nothing makes sense at first.
struct Workspace {
  std::unique_ptr<float4[]> memory;

  explicit Workspace(size_t bytes) : memory(new float4[(bytes + 255) / 16 + 16]) {
    std::memset(memory.get(), 0x5a, bytes + 256);
  }
  void* base() const {
    return reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(memory.get()) + 255) & ~255);
  }
};

}  // namespace

int main(int, char** names) {
  emulated::Arguments given{names};
  const int64_t N = given.whole(), M = given.whole();
  const bool indexed = given.flag();
  given.schedule();
  const auto x = emulated::read<float>(3 * N), y = emulated::read<float>(3 * M);
  std::vector<float> dist_x(N), dist_y(M);
  std::vector<int64_t> idx_x(N), idx_y(M);
  NearestPairParams p{};
  p.x = x.data(), p.y = y.data(), p.B = 1, p.N = N, p.M = M;
  p.dist_x = dist_x.data(), p.idx_x = idx_x.data();
  if (indexed) {
    const Workspace index(tree_workspace_bytes(1, 0, M)), own(tree_workspace_bytes(1, N, 0));
    NearestPairParams target = p;
    target.N = 0, target.x = nullptr;
    launch_tree_index(target, index.base(), nullptr);
    launch_tree_search(p, own.base(), index.base(), nullptr);
  } else {
    p.dist_y = dist_y.data(), p.idx_y = idx_y.data();
    launch_tree_search(p, Workspace(tree_workspace_bytes(1, N, M)).base(), nullptr, nullptr);
  }
  emulated::write(dist_x), emulated::write(idx_x);
  if (!indexed) emulated::write(dist_y), emulated::write(idx_y);
  return 0;
}
