// SPDX-License-Identifier: MIT
// Primal and dual of the integer solvers, summed in integers. They decide only when to stop: the
// certificate is computed anew in float64 (row_minima.cuh, general/certificate.cuh).
#pragma once

#include "state.cuh"

namespace pointloss {

struct Sums {
  double primal, dual;  // in units; primal: over the bidders that have an object
  __device__ __forceinline__ double gap() const { return primal - dual; }
};

// best_of(i): the best value of bidder i, by a warp; the blocks share out the bidders.
template <class State, class Best>
__device__ __forceinline__ Sums sum_gap(const State& s, IntegerShared& h, Best best_of) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  __syncthreads();
  if (threadIdx.x == 0) h.value_sum = h.cost_sum = h.price_sum = 0;
  __syncthreads();
  unsigned long long values = 0, costs = 0, prices = 0;
  for (int i = warp * s.cluster.size + s.cluster.rank; i < s.bidders();
       i += kIntegerWarps * s.cluster.size) {
    values += best_of(i);
  }
  for (int j = threadIdx.x; j < s.N; j += kIntegerThreads) {
    const int i = s.owner[j];
    prices += s.price(j);
    if (i != State::kNone) costs += s.cost(s.object[j], s.bidder_at(i));
  }
  costs = warp_sum(costs), prices = warp_sum(prices);
  if (lane == 0) {
    atomicAdd(&h.value_sum, values);
    atomicAdd(&h.cost_sum, costs);
    atomicAdd(&h.price_sum, prices);
  }
  __syncthreads();
  if (threadIdx.x == 0) s.exchange->values[s.cluster.rank] = h.value_sum;
  s.cluster.sync();
  values = 0;
  for (int r = 0; r < s.cluster.size; ++r) values += load_fresh(s.exchange->values + r);
  const auto dual = static_cast<long long>(values) - static_cast<long long>(h.price_sum);
  const Sums sums{static_cast<double>(h.cost_sum), static_cast<double>(dual)};
  s.cluster.sync();  // before anyone writes the next sums
  return sums;
}

}  // namespace pointloss
