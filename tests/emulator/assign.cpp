// SPDX-License-Identifier: MIT
// Assigns one pair of clouds as csrc/cuda/assign/kernels.cuh does, in the emulator.
//
//   assign N M D squared rtol atol max_rounds deterministic blocks long_ids warm seed stop hold
//   turns
//
// reads x [N, D] and y [M, D], or costs [N, M] if D is 0, in float32 from the standard input, if
// `warm` then price [max(N, M)] in float64 and idx [N] in int64, and writes idx [N], price [max(N,
// M)], and in float64 cost, gap, rounds, converged, whether the integer solver solved it, and how
// many of the rounds came after that. `blocks` solve the cloud, with ids of 32 bits if `long_ids`.
#include "../../csrc/cuda/assign/kernels.cuh"
#include "program.h"

using namespace pointloss;
using emulated::read, emulated::write, emulated::SharedMemory;

namespace {

// As the kernels of the integer solvers, of the first pair.
template <class Id, Cost kCost>
void solve_equal(const AssignPlan& plan, int blocks) {
  SharedMemory<IntegerShared> shared(blocks, equal_block_bytes<Id>(plan.most()));
  emulated::launch(blocks, kIntegerThreads, [&] {
    const int b = emulated::block();
    solve_by_cluster<Id, kCost>(plan, 0, *shared.fixed[b], shared.memory(b));
  });
}
template <Cost kCost>
void solve_by_blocks(const AssignPlan& plan, int blocks) {
  SharedMemory<int> box(blocks, 6 * sizeof(float) * ((plan.most() + 31) / 32));
  emulated::launch(blocks, kIntegerThreads, [&] {
    const int b = emulated::block();
    solve_by_team<kCost>(plan, 0, b, blocks, reinterpret_cast<float*>(box.memory(b)));
  });
}

template <Cost kCost>
void solve(const AssignPlan& plan, int blocks, bool long_ids) {
  if (plan.D == 0) return;  // for the general solver
  if (choose_solver(plan.least(), plan.most(), plan.D) == Solver::kUnequal) {
    SharedMemory<UnequalShared> shared(blocks, unequal_block_bytes(plan.least(), plan.most()));
    return emulated::launch(blocks, kIntegerThreads, [&] {
      const int b = emulated::block();
      solve_unequal_pair<kCost>(plan, 0, *shared.fixed[b], shared.memory(b));
    });
  }
  // Long ids are for clouds that do not fit shared memory, which one block or a team solves.
  if (!long_ids) return solve_equal<uint16_t, kCost>(plan, blocks);
  blocks > 1 ? solve_by_blocks<kCost>(plan, blocks) : solve_equal<int, kCost>(plan, 1);
}

}  // namespace

int main(int, char** names) {
  emulated::Arguments given{names};
  AssignBatch<float> batch{};
  batch.B = 1, batch.N = given.whole(), batch.M = given.whole(), batch.D = given.whole();
  batch.squared = given.flag();
  batch.tolerance.rtol = given.number(), batch.tolerance.atol = given.number();
  batch.max_rounds = given.whole();
  batch.deterministic = given.flag();
  const auto blocks = static_cast<int>(given.whole());
  const bool long_ids = given.flag(), warm = given.flag();
  given.schedule();

  const int64_t wide = std::max(batch.N, batch.M);
  const auto x = read<float>(batch.N * (batch.D > 0 ? batch.D : batch.M));
  const auto y = read<float>(batch.M * batch.D);
  const auto price_in = read<double>(warm ? wide : 0);
  const auto idx_in = read<int64_t>(warm ? batch.N : 0);
  batch.x = x.data(), batch.y = y.data();
  batch.price_in = warm ? price_in.data() : nullptr, batch.idx_in = warm ? idx_in.data() : nullptr;
  std::vector<int64_t> idx(batch.N, -1), rounds(1);
  std::vector<double> price(wide), cost(1), gap(1);
  bool converged = false;
  batch.idx = idx.data(), batch.price = price.data(), batch.cost = cost.data();
  batch.gap = gap.data(), batch.rounds = rounds.data(), batch.converged = &converged;

  const size_t bytes = assign_pair_bytes(batch.N, batch.M, batch.D);
  std::unique_ptr<char, decltype(&std::free)> workspace(
      static_cast<char*>(std::aligned_alloc(256, bytes)), std::free);
  std::memset(workspace.get(), 0xcd, bytes);
  const AssignPlan plan(batch, workspace.get());
  bool swapped = false;
  const PairHead& head = *plan.pair(0, &swapped).head;
  auto shared = std::make_unique<BlockShared>();
  emulated::launch(1, kGeneralThreads, [&] { prepare_pair(batch, plan, 0, *shared); });
  SharedMemory<BlockShared> of_parts(blocks, 0);
  emulated::launch(blocks, kGeneralThreads, [&] {
    const int part = emulated::block();
    certify_line_pair(plan, 0, part, blocks, *of_parts.fixed[part]);
  });
  (batch.squared ? solve<Cost::kSquare> : solve<Cost::kDistance>)(plan, blocks, long_ids);
  const bool solved = head.solved;
  const int64_t so_far = head.rounds;
  emulated::launch(1, kGeneralThreads,
                   [&] { finish_pair(plan, batch, batch.x, batch.y, 0, *shared); });

  write(idx), write(price), write(cost), write(gap);
  write(std::vector<double>{static_cast<double>(rounds[0]), converged ? 1.0 : 0.0});
  write(std::vector<double>{solved ? 1.0 : 0.0, static_cast<double>(rounds[0] - so_far)});
  return 0;
}
