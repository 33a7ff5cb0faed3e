// SPDX-License-Identifier: MIT
// The general assignment solver of one pair of point clouds, by one thread block: any dimension,
// any ratio of sizes, any range of costs, a matrix of costs; also certifies what the integer
// solvers leave.
//
// Problem and dual: common/assign.h. Bidders are the points of the smaller cloud.
// Method: Jacobi auction with eps-scaling. In a round every unassigned bidder bids for its best
// object; the highest bid wins, equal bids go to the lowest bidder, and evicted bidders bid in the
// next round. refill() raises `level`, the price that all dummy bidders pay, if bidders leave
// objects unowned above it.
// Source: D. P. Bertsekas, "The auction algorithm", Annals of Operations Research 14 (1988).
// Map: block = pair; a warp scans for a bidder if there are many, else warps share out the objects.
// Cost: 30 to 50 bids per bidder at L values each, in ten thousand rounds or more, most of them
// with a single bidder; the rounds, not the values, take the time.
// Guaranteed: as on the CPU (injection, termination, certificate); the same result bit for bit on
// every run, since no result depends on the order of a list or of atomics.
#pragma once

#include "../../../common/assign_phases.h"
#include "certificate.cuh"

namespace pointloss {

struct Auction : Certificate {
  double last_level = 0.0, raise_cap = 0.0;
  bool has_last = false, possible = true;
  int64_t rounds_taken = 0, war_bids = 0;

  // As assign_phases() asks for them.
  __device__ double float_floor() const { return assign_float_floor(c.dim, c.squared); }
  __device__ bool feasible() const { return possible; }
  __device__ bool was_easy() const { return false; }  // a round's losers bid again in any case
  __device__ bool certifies_float() const { return true; }
  __device__ int64_t rounds() const { return rounds_taken; }

  // Best two values of bidder i by `warps` warps, of which this is number `part`.
  template <typename S>
  __device__ __noinline__ BestTwo<S> warp_best(int64_t i, int part, int warps) {
    BestTwo<S> top{static_cast<S>(INFINITY), static_cast<S>(INFINITY), INT_MAX};
    scan<S>(c, static_cast<S>(level), i, part * 32 + threadIdx.x % 32, warps * 32,
            [&](int64_t j, S v) { top.take(v, static_cast<int>(j)); });
    return lanes_merge(top, 32);
  }

  template <typename S>
  __device__ double bid_price(const BestTwo<S>& top, double eps) const {
    const double raise = static_cast<double>(top.second) - static_cast<double>(top.best);
    const double before = effective(top.object);
    const double bid = before + fmin(fmax(raise, 0.0), raise_cap) + eps;
    return bid > before ? bid : nextafter(before, static_cast<double>(INFINITY));
  }

  // Gives object j to bidder i and returns whom it evicts (-1: nobody).
  __device__ int hand_over(int i, int j, double price) {
    const int evicted = c.owner[j];
    set_price(j, price);
    c.owner[j] = i;
    c.partner[i] = j;
    if (evicted >= 0) c.partner[evicted] = -1;
    return evicted;
  }

  // A round of many bidders, each scanned for by one warp. Losers and evicted go to `next`.
  template <typename S>
  __device__ __noinline__ void many_bids(const int* queue, int count, double eps, int* next,
                                         int* next_count) {
    for (int q = threadIdx.x / 32; q < count; q += kGeneralWarps) {
      const BestTwo<S> top = warp_best<S>(queue[q], 0, 1);
      if (threadIdx.x % 32 != 0) continue;
      c.target[q] = top.object;
      c.bid[q] = bid_price(top, eps);
      atomicMax(c.key + top.object, key_of(c.bid[q]));
    }
    __syncthreads();
    for (int q = threadIdx.x; q < count; q += kGeneralThreads) {
      const int j = c.target[q];
      if (c.key[j] == key_of(c.bid[q])) atomicMin(c.winner + j, queue[q]);
    }
    __syncthreads();
    for (int q = threadIdx.x; q < count; q += kGeneralThreads) {
      const int i = queue[q], j = c.target[q];
      const int waiting = c.winner[j] == i ? hand_over(i, j, c.bid[q]) : i;
      if (waiting >= 0) next[atomicAdd(next_count, 1)] = waiting;
    }
    __syncthreads();
    for (int q = threadIdx.x; q < count; q += kGeneralThreads) {
      c.key[c.target[q]] = 0;
      c.winner[c.target[q]] = INT_MAX;
    }
    __syncthreads();
  }

  // A round of few bidders, `warps` (a power of two) to each; most rounds have a single one. The
  // first warp settles the bids among its lanes.
  template <typename S>
  __device__ __noinline__ void few_bids(const int* queue, int count, int warps, double eps,
                                        int* next, int* next_count) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (warp / warps < count) {
      const BestTwo<S> top = warp_best<S>(queue[warp / warps], warp % warps, warps);
      if (lane == 0) shared.part[warp] = {top.best, top.second, top.object};
    }
    __syncthreads();
    if (warp == 0) {
      const int q = lane / warps;
      BestTwo<double> top{INFINITY, INFINITY, INT_MAX};
      if (q < count) top = shared.part[lane];
      top = lanes_merge(top, warps);
      const bool bids = q < count && lane % warps == 0;
      const int i = bids ? queue[q] : INT_MAX, j = top.object;
      const double price = bids ? bid_price(top, eps) : 0.0;
      bool wins = bids;
      for (int r = 0; r < count; ++r) {
        const int other_j = __shfl_sync(kWholeWarp, j, r * warps);
        const int other_i = __shfl_sync(kWholeWarp, i, r * warps);
        const double other = __shfl_sync(kWholeWarp, price, r * warps);
        if (other_j == j && (other > price || (other == price && other_i < i))) wins = false;
      }
      const int waiting = wins ? hand_over(i, j, price) : bids ? i : -1;
      const unsigned all = __ballot_sync(kWholeWarp, waiting >= 0);
      if (waiting >= 0) next[rank_in(all)] = waiting;
      if (lane == 0) *next_count = __popc(all);
    }
    __syncthreads();
  }

  template <typename S>
  __device__ void bid_round(const int* queue, int count, double eps, int* next, int* next_count) {
    int warps = 1;
    while (2 * warps * count <= kGeneralWarps) warps *= 2;
    if (warps == 1) return many_bids<S>(queue, count, eps, next, next_count);
    few_bids<S>(queue, count, warps, eps, next, next_count);
  }

  // Dummies bid for as many of the cheapest objects as are unowned above the level. Bidders that
  // own an object at the new level are all evicted: more than needed on ties, which is as valid.
  __device__ __noinline__ void refill(int* queue, int* count) {
    if (c.K == c.L) return;
    const auto missing = static_cast<int64_t>(block_over(shared, c.L, 0.0, Sum(), [&](int64_t j) {
      return c.owner[j] < 0 && c.price[j] > level ? 1.0 : 0.0;
    }));
    if (missing == 0) return;
    level = block_select(shared, c.L, missing - 1, [&](int64_t j) {
      const bool dummy = c.owner[j] < 0 && !(c.price[j] > level);
      return dummy ? kNoKey : static_cast<unsigned long long>(__double_as_longlong(effective(j)));
    });
    for (int64_t j = threadIdx.x; j < c.L; j += kGeneralThreads) {
      const int i = c.owner[j];
      if (i < 0 || c.price[j] > level) continue;
      c.partner[i] = -1;
      c.owner[j] = -1;
      queue[atomicAdd(count, 1)] = i;
    }
    __syncthreads();
  }

  // Assigns every bidder; false when a bound was hit first, or when that is not feasible.
  template <typename S>
  __device__ __noinline__ bool run_phase(S, double& eps, int64_t round_limit, int64_t bid_limit) {
    int side = 0;
    __syncthreads();
    if (threadIdx.x < 2) shared.count[threadIdx.x] = 0;
    __syncthreads();
    for (int64_t i = threadIdx.x; i < c.K; i += kGeneralThreads) {
      if (c.partner[i] < 0) c.queue[0][atomicAdd(shared.count, 1)] = static_cast<int>(i);
    }
    __syncthreads();
    int64_t bids = 0, war_start = 0;
    while (true) {
      if (shared.count[side] == 0) refill(c.queue[side], shared.count + side);
      const int count = shared.count[side];
      if (count == 0) break;
      if (rounds_taken >= round_limit || (bid_limit >= 0 && bids > bid_limit)) return false;
      if (bids - war_start > war_bids) {
        if (c.dim == 0 && hopeless()) {
          possible = false;
          return false;
        }
        eps *= kAssignTheta * kAssignTheta;
        raise_cap = fmax(raise_cap, kAssignRaiseCap * eps);
        war_start = bids;
      }
      ++rounds_taken;
      bids += count;
      bid_round<S>(c.queue[side], count, eps, c.queue[1 - side], shared.count + (1 - side));
      // No barrier: the next round adds to this count only after its own first one.
      if (threadIdx.x == 0) shared.count[side] = 0;
      side = 1 - side;
    }
    if (war_start > 0) war_bids *= 2;
    return true;
  }

  // Sum of the best values of all bidders, which stay in c.best.
  template <typename S>
  __device__ __noinline__ double best_sum() {
    __syncthreads();
    for (int64_t i = threadIdx.x / 32; i < c.K; i += kGeneralWarps) {
      const BestTwo<S> top = warp_best<S>(i, 0, 1);
      if (threadIdx.x % 32 == 0) c.best[i] = static_cast<double>(top.best);
    }
    __syncthreads();
    return block_over(shared, c.K, 0.0, Sum(), [&](int64_t i) { return c.best[i]; });
  }

  // Whether the prices prove that forbidden pairs leave no matching: the lower bound is above what
  // any matching costs. Prices of too few objects for their bidders rise until it is. They need not
  // be those of an assignment; rounding is far below what is allowed for.
  __device__ __noinline__ bool hopeless() {
    const double rows = best_sum<double>();
    const double least =
        block_over(shared, c.L, INFINITY, Min(), [&](int64_t j) { return effective(j); });
    const double prices =
        block_over(shared, c.L, 0.0, Sum(), [&](int64_t j) { return effective(j); });
    const double more = static_cast<double>(c.L - c.K) * least;  // prices count from their least
    return rows - prices + more - 1e-9 * (rows + prices) >
           kAssignMatrixMost * static_cast<double>(c.K);
  }

  // Estimates the gap from the slack (own value - best value) of every bidder.
  template <typename S>
  __device__ __noinline__ AssignSlack measure_slack(S, AssignTolerance tolerance) {
    normalise();
    const double mean = best_sum<S>() / static_cast<double>(c.K);
    for (int64_t i = threadIdx.x; i < c.K; i += kGeneralThreads) {
      const int j = c.partner[i];
      c.slack[i] = fmax(0.0, cost(i, j) + c.price[j] - c.best[i]);
    }
    __syncthreads();
    const double total = block_over(shared, c.K, 0.0, Sum(), [&](int64_t i) { return c.slack[i]; });
    const double largest =
        block_over(shared, c.K, 0.0, Max(), [&](int64_t i) { return c.best[i]; });
    const double median =
        block_select(shared, c.K, (c.K - 1) / 2, [&](int64_t i) { return key_of(c.best[i]); });
    return assign_slack(total, measure(), c.K, tolerance, mean, median, largest, float_floor(),
                        c.float_exact);
  }

  // Clears prices and assignment.
  __device__ void clear() {
    __syncthreads();
    for (int64_t j = threadIdx.x; j < c.L; j += kGeneralThreads) {
      set_price(j, 0.0);
      c.owner[j] = -1;
    }
    clear_bids();
    for (int64_t i = threadIdx.x; i < c.K; i += kGeneralThreads) c.partner[i] = -1;
    level = 0.0;
    __syncthreads();
  }
  __device__ void clear_bids() const {
    for (int64_t j = threadIdx.x; j < c.L; j += kGeneralThreads) {
      c.key[j] = 0;
      c.winner[j] = INT_MAX;
    }
  }

  // After a phase that was cut short: the last whole phase, if any, else the nearest free objects.
  __device__ void restore_or_complete() {
    __syncthreads();
    if (has_last) {
      level = last_level;
      for (int64_t j = threadIdx.x; j < c.L; j += kGeneralThreads) set_price(j, c.last_price[j]);
      for (int64_t i = threadIdx.x; i < c.K; i += kGeneralThreads) c.partner[i] = c.last_partner[i];
      __syncthreads();
      return;
    }
    for (int64_t i = 0; i < c.K; ++i) {
      if (c.partner[i] >= 0) continue;
      const auto free_cost = [&](int64_t j) { return c.owner[j] < 0 ? cost(i, j) : INFINITY; };
      const double least = block_over(shared, c.L, INFINITY, Min(), free_cost);
      const auto j = static_cast<int>(block_over(shared, c.L, INFINITY, Min(), [&](int64_t k) {
        return c.owner[k] < 0 && free_cost(k) == least ? static_cast<double>(k) : INFINITY;
      }));
      __syncthreads();
      if (threadIdx.x == 0) c.partner[i] = j, c.owner[j] = static_cast<int>(i);
      __syncthreads();
    }
  }

  __device__ void keep_phase() {
    last_level = level;
    has_last = true;
    for (int64_t j = threadIdx.x; j < c.L; j += kGeneralThreads) c.last_price[j] = c.price[j];
    for (int64_t i = threadIdx.x; i < c.K; i += kGeneralThreads) c.last_partner[i] = c.partner[i];
  }
  __device__ void drop_slack(double eps) const {
    for (int64_t i = threadIdx.x; i < c.K; i += kGeneralThreads) {
      if (c.slack[i] <= eps) continue;
      c.owner[c.partner[i]] = -1;
      c.partner[i] = -1;
    }
    __syncthreads();
  }

  template <typename S>
  __device__ __noinline__ AssignOutcome run(double& eps, AssignTolerance tolerance,
                                            int64_t round_limit, int64_t bid_limit, double& gap) {
    return assign_phases<S>(*this, eps, tolerance, round_limit, bid_limit, gap);
  }

  // Installs warm prices (in input units; what is not finite counts as 0) if they give a better
  // lower bound than no prices, `nearest`, do.
  __device__ bool load_prices(const double* price_in, int exponent, double nearest) {
    for (int64_t j = threadIdx.x; j < c.L; j += kGeneralThreads) {
      const double p = ldexp(price_in[j], -exponent);
      c.price[j] = isfinite(p) ? p : 0.0;
    }
    __syncthreads();
    level = -INFINITY;  // given prices may be negative
    normalise();
    const double prices =
        block_over(shared, c.L, 0.0, Sum(), [&](int64_t j) { return c.price[j]; });
    if (best_sum<float>() - prices > nearest) return true;
    clear();
    return false;
  }

  // Phases from eps on, in float as long as that suffices.
  __device__ AssignOutcome run_all(double& eps, AssignTolerance tolerance, int64_t limit,
                                   int64_t bid_limit, double& gap) {
    const AssignOutcome outcome = run<float>(eps, tolerance, limit, bid_limit, gap);
    if (outcome != AssignOutcome::kNeedsDouble) return outcome;
    return run<double>(eps, tolerance, limit, -1, gap);
  }

  // Certifies what an integer solver or a matching on a line left; goes on from there if that is
  // not enough.
  __device__ double finish_integers(AssignTolerance tolerance, int64_t limit) {
    double gap = INFINITY, eps = c.head->eps;
    if (unassigned() == 0.0) {
      gap = gap_of_rows();
      // What took no bids (a line, a warm start that holds) is the optimum if no gap can be told
      // from 0.
      const double enough = fmax(tolerance.relative(mean_size), rounds_taken > 0 ? 0.0 : exact);
      if (gap <= enough || rounds_taken >= limit) return gap;
      // Integer prices lie between rounded costs. Where many bidders pay the same or nothing, as
      // among duplicates, what rounding adds up to can be more than the gap of the few who travel.
      tighten();
      gap = certify();
      if (gap <= tolerance.relative(mean_size)) return gap;
    }
    clear_bids();
    war_bids = kAssignWarBids * c.K;
    raise_cap = kAssignRaiseCap * eps;
    __syncthreads();
    run_all(eps, tolerance, limit, -1, gap);
    return gap;
  }

  // The eps of a cold start for a matrix, whose bidders' least costs are 0: the mean of what a
  // second best is worse by, or where bidders have several best objects a part of the mean cost.
  __device__ __noinline__ double matrix_eps() {
    for (int64_t i = threadIdx.x / 32; i < c.K; i += kGeneralWarps) {
      const BestTwo<float> top = warp_best<float>(i, 0, 1);
      if (threadIdx.x % 32 == 0) c.slack[i] = static_cast<double>(top.second);
    }
    __syncthreads();
    const auto mean_finite = [&](int64_t count, auto term) {
      const double sum = block_over(shared, count, 0.0, Sum(),
                                    [&](int64_t k) { return term(k) < INFINITY ? term(k) : 0.0; });
      const double finite = block_over(shared, count, 0.0, Sum(),
                                       [&](int64_t k) { return term(k) < INFINITY ? 1.0 : 0.0; });
      return finite > 0.0 ? sum / finite : 0.0;
    };
    const double second = mean_finite(c.K, [&](int64_t i) { return c.slack[i]; });
    if (second > 0.0) return second;
    const double mean = mean_finite(c.K * row_stride(c.L),
                                    [&](int64_t k) { return static_cast<double>(c.above_f[k]); });
    return kAssignMatrixPart * (mean > 0.0 ? mean : 1.0);
  }

  // Solves a pair that is neither empty nor degenerate; returns the certified gap. `opening`: eps
  // to begin at if every nearest cost is 0, as coincident points can make it.
  __device__ double solve(AssignTolerance tolerance, int64_t max_rounds, const double* price_in,
                          int exponent, double opening) {
    const int64_t limit = assign_round_limit(max_rounds, c.L);
    if (c.head->solved && consistent()) return finish_integers(tolerance, limit);
    clear();
    war_bids = kAssignWarBids * c.K;
    const double nearest = best_sum<float>();
    double eps = nearest > 0.0 ? nearest / static_cast<double>(c.K) : opening;
    if (c.dim == 0) eps = matrix_eps();
    double gap = INFINITY;
    raise_cap = kAssignRaiseCap * eps;
    const bool warm = price_in != nullptr && load_prices(price_in, exponent, nearest);
    if (warm) eps /= kAssignWarmRatio;
    const int64_t bids = warm ? kAssignWarmBids * c.K : -1;
    if (run_all(eps, tolerance, limit, bids, gap) == AssignOutcome::kDropWarm) {
      clear();
      eps *= kAssignWarmRatio;
      run_all(eps, tolerance, limit, -1, gap);
    }
    return gap;
  }
};

}  // namespace pointloss
