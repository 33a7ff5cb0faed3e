// SPDX-License-Identifier: MIT
// Both sides of the integer solvers' duality gap, by the blocks that solved the cloud.
//
// Primal and dual are summed in integers; they decide only when to stop. The certificate is
// computed anew in float64 (general/certificate.cuh), from row minima min_j (c_ij + p_j) that are
// found here: an integer cost errs by less than 128 units, as up to 2^28 of them come from floats
// with five roundings, and double input adds its own rounding to float. So the object with the
// least value in float64 is within 256 units of the least in integers. A scan in integers finds all
// of those, and only they are computed in float64, from the coordinates as they were given. Nothing
// else of the solver's arithmetic or caches enters: prices are as they are.
#pragma once

#include "prices.cuh"
#include "scan.cuh"

namespace pointloss {

struct Sums {
  double primal, dual;  // in units; primal: over the bidders that have an object
  __device__ __forceinline__ double gap() const { return primal - dual; }
};

// best_of(i): the best value of bidder i, by a warp; the blocks share out the bidders.
template <class State, class Best>
__device__ __forceinline__ Sums sum_gap(const State& s, IntegerShared& h, Best best_of) {
  const int lane = threadIdx.x % 32, warp = s.warp();
  s.sync();
  if (s.thread() == 0) h.value_sum = h.cost_sum = h.price_sum = 0;
  s.sync();
  unsigned long long values = 0, costs = 0, prices = 0;
  for (int i = warp * s.cluster.size + s.cluster.rank; i < s.bidders();
       i += s.warps() * s.cluster.size) {
    values += best_of(i);
  }
  for (int j = s.thread(); j < s.N; j += s.threads()) {
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
  s.sync();
  if (s.thread() == 0) s.exchange->values[s.cluster.rank] = h.value_sum;
  s.cluster.sync();
  values = 0;
  for (int r = 0; r < s.cluster.size; ++r) values += load_fresh(s.exchange->values + r);
  const auto dual = static_cast<long long>(values) - static_cast<long long>(h.price_sum) +
                    int64_t{s.N - s.in->K} * h.level;
  const Sums sums{static_cast<double>(h.cost_sum), static_cast<double>(dual)};
  s.cluster.sync();  // before anyone writes the next sums
  return sums;
}

constexpr int kCostError = 128;  // of an integer cost, in units

// Calls use(j) for all objects of this lane with a value of at most `limit`.
template <class State, class Use>
__device__ __forceinline__ void visit_near(const State& s, float4 p, int limit, Use use) {
  visit_groups<2>(
      s, p, [&](int, int bound) { return bound <= limit; },
      [&](int, float4 o) { return s.value(o, p); },
      [&](int j, int value) {
        if (j < s.N && value <= limit) use(j);
      },
      [] {});
}

// The same of bidder i at p, who may keep them in a cache; then for others, too.
template <Cost kCost, class Use>
__device__ __forceinline__ void visit_within(const UnequalState<kCost>& s, int, float4 p, int limit,
                                             Use use) {
  visit_near(s, p, limit, use);
}
template <class Id, Cost kCost, class Blocks, class Use>
__device__ __forceinline__ void visit_within(const EqualState<Id, kCost, Blocks>& s, int i,
                                             float4 p, int limit, Use use) {
  LaneCache lane = cached(s, i);
  if (warp_min(lane.bound) <= limit) {
    refill_cache(s, i, p, limit + 1);
    lane = cached(s, i);
  }
  if (warp_min(lane.bound) > limit) {
    const int own = threadIdx.x % 32;
    if (lane.a != LaneCache::kNoGroup) use(static_cast<int>(lane.a) * 32 + own);
    if (lane.b != LaneCache::kNoGroup) use(static_cast<int>(lane.b) * 32 + own);
  } else {  // a lane holds more than two of them
    visit_near(s, p, limit, use);
  }
}

// Of the K bidders, shared out among the warps of the cluster. best_of(i): best value in integers.
template <class State, class Best>
__device__ __forceinline__ void row_minima(const State& s, int least_price, Best best_of,
                                           double* minimum) {
  const IntegerInput& in = *s.in;
  for (int i = s.warp() * s.cluster.size + s.cluster.rank; i < in.K;
       i += s.warps() * s.cluster.size) {
    double least = INFINITY;
    visit_within(s, i, s.bidder_at(i), best_of(i) + 2 * kCostError, [&](int j) {
      const double cost = assign_cost(in.bidder_exact + i, in.K, in.object_exact + s.order[j], in.N,
                                      in.dim, s.squared());
      least = fmin(least, cost + scaled_price(s, j, least_price));
    });
    least = warp_min(least);
    if (threadIdx.x % 32 == 0) minimum[i] = least;
  }
}

// Leaves with the pair what a solver found that has come to an end.
template <class State, class Best>
__device__ __forceinline__ void finish(const State& s, IntegerShared& h, bool done, int64_t rounds,
                                       int eps, Best best_of, const PairArrays& to) {
  const int least = least_of(s, h, s.G, [&](int g) { return s.box_price[g]; });
  if (s.cluster.rank == 0) store(s, least, to);
  const bool solved = done || rounds >= s.in->round_limit;
  if (solved) row_minima(s, least, best_of, to.best);
  s.cluster.sync();  // none leaves while others may still write into its memory
  if (s.thread() == 0 && s.cluster.rank == 0) {
    to.head->rounds = rounds;
    to.head->eps = eps * (1.0 / (1 << kCostBits));
    to.head->solved = solved;
  }
  s.sync();
}

}  // namespace pointloss
