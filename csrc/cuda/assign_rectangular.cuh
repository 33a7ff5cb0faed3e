// SPDX-License-Identifier: MIT
// Assignment of a cloud to a larger one by the thread blocks of a team, in integers.
//
// Problem and dual: common/assign.h, for more objects than bidders. An object that nobody owns must
// cost nothing in the end, else its price adds to the gap; the usual phases of falling eps, each of
// which starts from the prices of the last, break that: what a coarse phase has overpriced stays
// unowned.
// Method: no price may exceed what rivals would pay. Every object has an asking price. A bid pays
// it, and up to kMostRaise eps more if the second best is that much worse, and leaves it eps
// higher: so an object that nobody contests costs nothing, and a contested one is overpriced by a
// few eps at most. A phase starts with nothing owned, from the last prices less kShift eps, which
// are then hardly ever too high; what stayed unowned at a price comes down to what a bidder would
// pay. Small clouds far from the objects begin at the prices of their centre (assign_opening.cuh).
// The gap is summed in integers after each phase. Nothing of it is trusted: see assign_solver.cuh,
// whose integers these are; the row minima of the certificate are as in assign_minima.cuh, without
// a cache.
// Source: prices below the equilibrium's, from which an ascending auction leaves nothing unowned at
// a price: G. Demange, D. Gale, M. Sotomayor, "Multi-item auctions", Journal of Political Economy
// 94 (1986); asymmetric problems: D. P. Bertsekas, D. A. Castanon, "A forward/reverse auction
// algorithm for asymmetric assignment problems", Computational Optimization and Applications 1
// (1992).
//
// Cost, simulated at 1024 bidders, 1 %: a ratio of 8 takes 2 bids a bidder in 20 rounds, of 2 4 in
// 90, of 1.1 12 in 650; a blob 35 in 500. Warm prices of a reverse phase instead, as the CPU twin's
// refill(), take 20 to 100 times the rounds.
// Guaranteed: an object has one owner and a bidder one object; all loops are bounded by the round
// limit, the phases or the number of objects.
#pragma once

#include "assign_opening.cuh"
#include "assign_rounds.cuh"
#include "assign_solver.cuh"

namespace pointloss {

// A cold start begins at this many times the mean nearest cost.
constexpr double kRectangularOpening = 0.25;
// After prices of the centre (assign_opening.cuh): this part of what they may be off.
constexpr double kCentrePart = 0.1;
// Prices come down by this many eps between two phases; twice as many after each that unowned
// objects' prices kept the gap open. Beyond the larger number they come down by the highest of
// those prices as well, and eps grows to this part of that: such an object is the last of a chain
// of overpriced ones, which must all come down.
constexpr int kShift = 2, kMaxShift = 8;
constexpr double kDropEps = 8.0;
constexpr double kStrandedPart = 0.3;

template <bool kSquared>
struct RectangularSolver {
  using Scan = Scanner<int, kSquared>;

  RectangularAuction<kSquared> a;

  struct Sums {
    double primal, dual, stranded;  // stranded: prices of what nobody owns
    int highest;                    // of those
    __device__ double gap() const { return primal - dual; }
  };

  __device__ __forceinline__ Sums pass() {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    __syncthreads();
    if (threadIdx.x == 0) {
      a.h.value_sum = a.h.cost_sum = a.h.price_sum = a.shared.stranded_sum = 0;
      a.shared.highest = 0;
    }
    __syncthreads();
    unsigned long long values = 0, costs = 0, prices = 0, stranded = 0;
    int highest = 0;
    for (int i = warp * a.s.team.size + a.s.team.rank; i < a.r.K;
         i += kSolverWarps * a.s.team.size) {
      const int best = a.look(i, a.bidder(i), 0, {0, 0}).best;
      if (lane == 0) a.r.value[i] = best;
      values += best;
    }
    for (int j = threadIdx.x; j < a.in.N; j += kSolverThreads) {
      const int i = a.s.owner[j], price = a.r.price[j];
      prices += price;
      if (i < 0) stranded += price, highest = max(highest, price);
      if (i >= 0) costs += Scan::cost(a.s.object[j], a.bidder(i));
    }
    costs = warp_sum(costs), prices = warp_sum(prices), stranded = warp_sum(stranded);
    highest = warp_max(highest);
    if (lane == 0) {
      atomicAdd(&a.h.value_sum, values);
      atomicAdd(&a.h.cost_sum, costs);
      atomicAdd(&a.h.price_sum, prices);
      atomicAdd(&a.shared.stranded_sum, stranded);
      atomicMax(&a.shared.highest, highest);
    }
    __syncthreads();
    if (threadIdx.x == 0) a.s.board->values[a.s.team.rank] = a.h.value_sum;
    a.s.team.sync();
    values = 0;
    for (int k = 0; k < a.s.team.size; ++k) values += load_fresh(a.s.board->values + k);
    const auto dual = static_cast<long long>(values) - static_cast<long long>(a.h.price_sum);
    const Sums sums{static_cast<double>(a.h.cost_sum), static_cast<double>(dual),
                    static_cast<double>(a.shared.stranded_sum), a.shared.highest};
    a.s.team.sync();  // before anyone writes the next sums
    return sums;
  }

  // Lowers the prices of what nobody owns until a bidder would as soon have it as its best.
  __device__ __forceinline__ void lower_stranded() {
    for (int j = threadIdx.x / 32; j < a.in.N; j += kSolverWarps) {
      if (a.s.owner[j] >= 0 || a.r.price[j] == 0) continue;
      const float4 o = a.s.object[j];
      int most = 0;
      for (int i = threadIdx.x % 32; i < a.r.K; i += 32) {
        most = max(most, load_fresh(a.r.value + i) - Scan::cost(o, a.bidder(i)));
      }
      most = warp_max(most);
      if (threadIdx.x % 32 == 0) a.r.price[j] = min(a.r.price[j], most);
    }
    __syncthreads();
  }

  // Mean cost of pairing bidder i with object i.
  __device__ __forceinline__ double identity_cost() {
    __syncthreads();
    if (threadIdx.x == 0) a.h.cost_sum = 0;
    __syncthreads();
    unsigned long long costs = 0;
    for (int i = threadIdx.x; i < a.r.K; i += kSolverThreads) {
      costs += Scan::cost(a.point(a.in.object, a.in.N, i, a.in.dim), a.bidder(i));
    }
    costs = warp_sum(costs);
    if (threadIdx.x % 32 == 0) atomicAdd(&a.h.cost_sum, costs);
    __syncthreads();
    return static_cast<double>(a.h.cost_sum) / a.r.K;
  }

  // Warm prices, less the least of them; what is not a price counts as 0.
  __device__ __forceinline__ void load_prices() {
    const auto units = [&](int j) { return a.in.price_units(a.order[j]); };
    if (threadIdx.x == 0) a.h.least = INT_MAX;
    __syncthreads();
    int least = INT_MAX;
    for (int j = threadIdx.x; j < a.in.N; j += kSolverThreads) least = min(least, units(j));
    least = warp_min(least);
    if (threadIdx.x % 32 == 0) atomicMin(&a.h.least, least);
    a.restart([&](int j) {
      return static_cast<int>(
          min(static_cast<int64_t>(units(j)) - a.h.least, int64_t{kRaiseLimit}));
    });
  }

  // The first eps, with the prices to start from.
  __device__ __forceinline__ double open(double target) {
    a.restart([](int) { return 0; });
    if (a.in.price_in == nullptr) {
      const auto centre =
          centre_of<kSquared>(a.h, a.s.object, a.r.K, a.in.N, [&](int i) { return a.bidder(i); });
      const double off = centre.prices([&](int j, int price) { a.r.price[j] = price; });
      if (off >= 0.0) {
        a.refresh_boxes();
        const double finest = 0.5 * target * pass().dual / a.r.K;
        const double first = fmax(kCentrePart * off, finest);
        lower(kShift * first);
        return first;
      }
    }
    const double nearest = pass().dual;
    // Coincident points can make every nearest cost 0 while the assignment is not free.
    const double first = nearest > 0.0 ? nearest / a.r.K
                                       : kAssignOpeningPart * identity_cost() / kRectangularOpening;
    if (a.in.price_in == nullptr) return kRectangularOpening * first;
    load_prices();
    if (pass().dual <= nearest) {
      a.restart([](int) { return 0; });
      return kRectangularOpening * first;
    }
    lower(kShift * first / kAssignWarmRatio);
    return first / kAssignWarmRatio;
  }

  __device__ __forceinline__ void lower(double drop) {
    const int less = static_cast<int>(fmin(drop, static_cast<double>(kPriceLimit)));
    a.restart([&](int j) { return max(a.r.price[j] - less, 0); });
  }

  // Phases until the integer gap is within `target`; false: a bound was hit.
  __device__ __forceinline__ bool phases(double target) {
    double next = open(target);
    int shift = kShift;
    a.war = kAssignWarBids * a.r.K;
    for (int phase = 0; phase < kMaxPhases; ++phase) {
      a.eps = max(1, static_cast<int>(fmin(next, static_cast<double>(kRaiseLimit))));
      if (!a.auction()) return false;
      a.settle();
      const Sums sums = pass();
      if (sums.gap() <= target * sums.primal) return true;
      const bool stuck = sums.stranded > kStrandedPart * target * sums.primal;
      if (a.eps == 1 && !stuck) return false;
      next = assign_next_eps(a.eps, sums.gap() / sums.primal, target);
      if (stuck) shift *= 2;
      double drop = static_cast<double>(shift) * a.eps;
      if (shift > kMaxShift) {
        shift = kShift;
        drop += sums.highest;
        next = fmax(next, drop / kDropEps);
      }
      lower_stranded();
      lower(drop);
    }
    return false;
  }

  // The least price, in h.least.
  __device__ __forceinline__ void find_least() {
    __syncthreads();
    if (threadIdx.x == 0) a.h.least = INT_MAX;
    __syncthreads();
    int least = INT_MAX;
    for (int g = threadIdx.x; g < a.s.G; g += kSolverThreads) least = min(least, a.s.box_price[g]);
    least = warp_min(least);
    if (threadIdx.x % 32 == 0) atomicMin(&a.h.least, least);
    __syncthreads();
  }

  __device__ __forceinline__ double price(int j) const {
    return (a.r.price[j] - a.h.least) * (1.0 / (1 << kCostBits));
  }

  // min_j (c_ij + p_j) of bidder i in float64, by a warp: see assign_minima.cuh.
  __device__ __forceinline__ double row_minimum(int i) const {
    const int lane = threadIdx.x % 32;
    const float4 p = a.bidder(i);
    const int limit = a.look(i, p, 0, {0, 0}).best + 2 * kCostError;
    double least = INFINITY;
    for (int g0 = 0; g0 < a.s.G; g0 += 32) {
      const bool within = g0 + lane < a.s.G && Scan::group_bound(a.s, g0 + lane, p) <= limit;
      unsigned groups = __ballot_sync(kWholeWarp, within);
      for (; groups != 0; groups &= groups - 1) {
        const int j = (g0 + __ffs(groups) - 1) * 32 + lane;
        if (j >= a.in.N || Scan::cost(a.s.object[j], p) + a.r.price[j] > limit) continue;
        const double cost = assign_cost(a.in.bidder_exact + i, a.in.K,
                                        a.in.object_exact + a.order[j], a.in.N, a.in.dim, kSquared);
        least = fmin(least, cost + price(j));
      }
    }
    for (int offset = 16; offset > 0; offset /= 2) {
      least = fmin(least, __shfl_xor_sync(kWholeWarp, least, offset));
    }
    return least;
  }

  // Row minima for the certificate, the bidders shared out among the warps of the team.
  __device__ __forceinline__ void minima(double* minimum) const {
    const int first = static_cast<int>(threadIdx.x) / 32 * a.s.team.size + a.s.team.rank;
    for (int i = first; i < a.r.K; i += kSolverWarps * a.s.team.size) {
      const double least = row_minimum(i);
      if (threadIdx.x % 32 == 0) minimum[i] = least;
    }
  }

  __device__ __forceinline__ void store(const SolverOutput& out) {
    for (int i = threadIdx.x; i < a.r.K; i += kSolverThreads) out.partner[i] = -1;
    __syncthreads();
    for (int j = threadIdx.x; j < a.in.N; j += kSolverThreads) {
      const int k = a.order[j], i = a.s.owner[j];
      out.price[k] = price(j);
      out.price_f[k] = static_cast<float>(out.price[k]);
      out.owner[k] = i;
      if (i >= 0) out.partner[i] = k;
    }
    __syncthreads();
  }
};

// `team_memory` holds what the team shares, `memory` comes to hold the arrays of the block.
template <bool kSquared>
__device__ __forceinline__ void solve_rectangular(const SolverInput& in, RectangularShared& shared,
                                                  TeamBoard* board, char* team_memory, char* memory,
                                                  int* order, SolverOutput& out) {
  RectangularState r = rectangular_state(in.K, in.N);
  lay_out_shared(r, team_memory);
  lay_out(r, memory);
  r.s.team = Team::here();
  r.s.board = board;
  RectangularSolver<kSquared> solver{{r, r.s, shared, shared.solver, in, order}};
  solver.a.load();
  const double target = fmax(in.rtol * (1.0 - 0x1p-10) - 1e-7, 1e-7);
  const bool done = solver.phases(target);
  solver.find_least();
  if (r.s.team.rank == 0) solver.store(out);
  out.rounds = solver.a.rounds;
  out.eps = solver.a.eps * (1.0 / (1 << kCostBits));
  out.solved = done || solver.a.rounds >= in.round_limit;
  if (out.solved) solver.minima(out.minimum);
  r.s.team.sync();  // none leaves while others may still write into its memory
}

}  // namespace pointloss
