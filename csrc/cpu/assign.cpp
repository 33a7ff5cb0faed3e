// SPDX-License-Identifier: MIT
// pointloss::assign on the CPU: check, allocate, solve the clouds in parallel.
#include "../common/calls/assign_call.h"
#include "assign/solve.h"

namespace pointloss {
namespace {

template <class T>
void assign_typed(AssignCall& call) {
  const AssignBatch<T> batch = call.batch<T>();
  const int64_t N = batch.N, M = batch.M, objects = std::max(N, M);
  Interrupt interrupt(batch.B);
  torch::stable::parallel_for(0, batch.B, 1, [&](int64_t begin, int64_t end) {
    const Interrupt::Share share{interrupt, end - begin};
    for (int64_t b = begin; b < end; ++b) {
      const AssignProblem<T> problem{batch.x + b * N * (batch.D > 0 ? batch.D : M),
                                     batch.y + b * M * batch.D,
                                     N,
                                     M,
                                     batch.D,
                                     batch.x_lengths == nullptr ? N : batch.x_lengths[b],
                                     batch.y_lengths == nullptr ? M : batch.y_lengths[b],
                                     batch.squared,
                                     batch.tolerance,
                                     batch.max_rounds,
                                     batch.price_in ? batch.price_in + b * objects : nullptr,
                                     batch.idx_in ? batch.idx_in + b * N : nullptr};
      AssignResult result{};
      result.idx = batch.idx + b * N;
      result.price = batch.price + b * objects;
      try {
        solve_assignment(problem, interrupt, result);
      } catch (const Interrupted&) {  // an exception takes the result's place
      }
      batch.cost[b] = result.cost;
      batch.gap[b] = result.gap;
      batch.rounds[b] = result.rounds;
      batch.converged[b] = result.converged;
    }
  });
  interrupt.raise();
}

AssignTensors assign_cpu(Tensor x, std::optional<Tensor> y, std::optional<Tensor> x_lengths,
                         std::optional<Tensor> y_lengths, bool squared, double rtol, double atol,
                         std::optional<Tensor> price, std::optional<Tensor> idx, int64_t max_rounds,
                         bool deterministic) {
  AssignCall call = check_assign(x, y, x_lengths, y_lengths, squared, rtol, atol, price, idx,
                                 max_rounds, deterministic);
  x.scalar_type() == ScalarType::Float ? assign_typed<float>(call) : assign_typed<double>(call);
  return call.results();
}

}  // namespace
}  // namespace pointloss

STABLE_TORCH_LIBRARY_IMPL(pointloss, CPU, m) {
  m.impl("assign", TORCH_BOX(&pointloss::assign_cpu));
}
