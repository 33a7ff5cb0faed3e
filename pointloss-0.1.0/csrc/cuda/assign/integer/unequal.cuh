// SPDX-License-Identifier: MIT
// Assignment of a cloud to a larger one in integers, by the thread blocks of a cluster.
//
// Problem and dual: common/assign.h, for more objects than bidders. The price of an object without
// an owner adds to the gap. Phases that each start from the prices of the last do not work: objects
// that a coarse phase has overpriced stay unowned.
// Method: no price may exceed what rivals would pay. Every object has an asking price. A bid pays
// it, and up to kMostRaise eps more if the second best is that much worse, and leaves it eps higher
// (unequal_auction.cuh): an object that nobody contests costs nothing, and a contested one is
// overpriced by a few eps at most. A phase starts without owners, from the last prices less kShift
// eps, which are then hardly ever too high; the price of an object that stayed unowned falls to
// what a bidder would pay.
// Source: prices below the equilibrium's, from which an ascending auction leaves no unowned object
// with a price: G. Demange, D. Gale, M. Sotomayor, "Multi-item auctions", Journal of Political
// Economy 94 (1986); asymmetric problems: D. P. Bertsekas, D. A. Castanon, "A forward/reverse
// auction algorithm for asymmetric assignment problems", Computational Optimization and
// Applications 1 (1992).
// Cost at 1024 bidders, 1 %: at a ratio of 8, 2 bids per bidder in 20 rounds; of 2, 4 in 90; of
// 1.1, 12 in 650; a blob 35 in 500.
// Guaranteed: an object has one owner and a bidder one object; all loops are bounded by the round
// limit, the phases or the number of objects. The rest is checked as for equal.cuh.
#pragma once

#include "duality_gap.cuh"
#include "opening.cuh"
#include "unequal_auction.cuh"

namespace pointloss {

__host__ __device__ constexpr bool unequal_supports(int64_t objects, int64_t dim) {
  return dim <= 3 && objects < kUnequalMostPoints;
}

template <Cost kCost>
struct UnequalSolver {
  const UnequalState<kCost>& s;
  UnequalShared& h;
  UnequalAuction<kCost> auction;

  __device__ __forceinline__ int best_of(int i) const {
    return best_two(s, i, s.bidder_at(i), 0, {0, 0}).best;
  }

  // The first block sorts the objects for all.
  __device__ __forceinline__ void load() {
    if (s.cluster.rank == 0) {
      load_objects(s, h);
      for (int i = threadIdx.x; i < s.in->K; i += kIntegerThreads) s.last_group[i] = -1;
    }
    s.cluster.sync();
    load_boxes(s);
    auction.clear();
    s.cluster.sync();  // none sends a bid before all are ready
  }

  // Primal and dual; the best values stay in best[].
  __device__ __noinline__ Sums pass() {
    return sum_gap(s, h, [&](int i) {
      const int best = best_of(i);
      if (threadIdx.x % 32 == 0) s.best[i] = best;
      return best;
    });
  }

  // Sum of the prices of unowned objects, and the highest of them in `highest`.
  __device__ __forceinline__ double unowned_prices(int& highest) {
    if (threadIdx.x == 0) h.unowned_sum = 0, h.unowned_highest = 0;
    __syncthreads();
    unsigned long long sum = 0;
    int most = 0;
    for (int j = threadIdx.x; j < s.N; j += kIntegerThreads) {
      if (s.owner[j] < 0) sum += s.price(j), most = max(most, s.price(j));
    }
    sum = warp_sum(sum), most = warp_max(most);
    if (threadIdx.x % 32 == 0) {
      atomicAdd(&h.unowned_sum, sum);
      atomicMax(&h.unowned_highest, most);
    }
    __syncthreads();
    highest = h.unowned_highest;
    const auto total = static_cast<double>(h.unowned_sum);
    __syncthreads();  // before anyone writes the next sums
    return total;
  }

  // Lowers the price of every unowned object until a bidder would as soon have it as its best.
  __device__ __forceinline__ void lower_unowned() {
    for (int j = threadIdx.x / 32; j < s.N; j += kIntegerWarps) {
      if (s.owner[j] >= 0 || s.price(j) == 0) continue;
      const float4 o = s.object[j];
      int most = 0;
      for (int i = threadIdx.x % 32; i < s.in->K; i += 32) {
        most = max(most, load_fresh(s.best + i) - s.cost(o, s.bidder_at(i)));
      }
      most = warp_max(most);
      if (threadIdx.x % 32 == 0) s.set_price(j, min(s.price(j), most));
    }
    __syncthreads();
  }

  __device__ __forceinline__ void lower_all(double drop) {
    const int less = static_cast<int>(fmin(drop, static_cast<double>(kPriceLimit)));
    restart_prices(s, [&](int j) { return max(s.price(j) - less, 0); });
  }

  // The first eps, with the prices to start from.
  __device__ __forceinline__ double open(double target) {
    const int K = s.in->K;
    const bool warm = s.in->price_in != nullptr;
    const CentrePrices<UnequalState<kCost>> centre{s, h};
    restart_prices(s, [](int) { return 0; });
    if (!warm) {
      const double error = centre.set();
      if (error >= 0.0) {
        refresh_groups(s);
        const double finest = 0.5 * target * pass().dual / K;
        const double first = fmax(kUnequalCentreEps * error, finest);
        lower_all(kShift * first);
        return first;
      }
    }
    const double nearest = pass().dual;
    // Coincident points can make every nearest cost 0 while the assignment is not free.
    const auto identity = [&](int i) { return s.cost(s.object_in(i), s.bidder_at(i)); };
    const double first = nearest > 0.0
                             ? nearest / K
                             : kAssignOpeningPart * centre.mean_cost(K, identity) / kUnequalOpening;
    if (!warm) return kUnequalOpening * first;
    load_prices(s, h);
    if (pass().dual <= nearest) {
      restart_prices(s, [](int) { return 0; });
      return kUnequalOpening * first;
    }
    lower_all(kShift * first / kAssignWarmRatio);
    return first / kAssignWarmRatio;
  }

  // Phases until the integer gap is within `target`; false: a bound was hit.
  __device__ __forceinline__ bool phases(double target) {
    double next = open(target);
    int shift = kShift;
    auction.war = kAssignWarBids * s.in->K;
    for (int phase = 0; phase < kMaxPhases; ++phase) {
      int& eps = auction.eps;
      eps = max(1, static_cast<int>(fmin(next, static_cast<double>(kRaiseLimit))));
      if (!auction.run()) return false;
      auction.lower_to_paid();
      const Sums sums = pass();
      if (sums.gap() <= target * sums.primal) return true;
      int highest = 0;
      const bool stuck = unowned_prices(highest) > kUnownedPart * target * sums.primal;
      if (eps == 1 && !stuck) return false;
      next = assign_next_eps(eps, sums.gap() / sums.primal, target);
      if (stuck) shift *= 2;
      double drop = static_cast<double>(shift) * eps;
      if (shift > kMaxShift) {
        shift = kShift;
        drop += highest;
        next = fmax(next, drop / kDropEps);
      }
      lower_unowned();
      lower_all(drop);
    }
    return false;
  }
};

// `state` has the arrays that the cluster shares; those of the block come to lie at `memory`.
template <Cost kCost>
__device__ __forceinline__ void solve_unequal(UnequalState<kCost> state, UnequalShared& shared,
                                              char* memory, const PairArrays& to) {
  Arena<16> arena(memory);
  take_arrays(state, state.in->K, arena);
  UnequalSolver<kCost> solver{state, shared, {state, shared}};
  solver.load();
  const bool done = solver.phases(state.in->target());
  finish(
      state, shared, done, solver.auction.rounds, solver.auction.eps,
      [&](int i) { return solver.best_of(i); }, to);
}

}  // namespace pointloss
