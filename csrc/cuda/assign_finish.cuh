// SPDX-License-Identifier: MIT
// Before and after the solvers of one cloud: scaling, certificate, completion, warm prices.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "assign_auction.cuh"

namespace pointloss {

// Scales both clouds; false when a coordinate is not finite. `exponent` is INT_MIN when all points
// coincide.
template <typename T>
__device__ __noinline__ bool scale_clouds(AuctionCloud& c, BlockShared& shared, const T* bidder,
                                          const T* object, int& exponent) {
  double half_extent = 0.0, bad = 0.0;
  const auto bounds = [&](int64_t d, auto op, double start) {
    const double a = block_over(shared, c.K, start, op, [&](int64_t k) {
      return static_cast<double>(bidder[k * c.dim + d]);
    });
    const double b = block_over(shared, c.L, start, op, [&](int64_t k) {
      return static_cast<double>(object[k * c.dim + d]);
    });
    return op(a, b);
  };
  const auto not_finite = [](T v) { return isfinite(v) ? 0.0 : 1.0; };
  bad +=
      block_over(shared, c.K * c.dim, 0.0, Max(), [&](int64_t k) { return not_finite(bidder[k]); });
  bad +=
      block_over(shared, c.L * c.dim, 0.0, Max(), [&](int64_t k) { return not_finite(object[k]); });
  if (bad > 0.0) return false;
  for (int64_t d = 0; d < c.dim; ++d) {
    const double low = bounds(d, Min(), INFINITY), high = bounds(d, Max(), -INFINITY);
    half_extent = fmax(half_extent, high / 2 - low / 2);
  }
  exponent = half_extent > 0.0 ? assign_exponent(half_extent) : INT_MIN;
  if (half_extent == 0.0) return true;

  const AssignScale scale(exponent);
  for (int64_t d = 0; d < c.dim; ++d) {
    // Float input is exact in float as it is; double input is so only around its centre.
    const double centre =
        c.float_exact ? 0.0
                      : scale(bounds(d, Min(), INFINITY) / 2 + bounds(d, Max(), -INFINITY) / 2);
    for (int64_t k = threadIdx.x; k < c.K; k += kAssignThreads) {
      const double v = scale(static_cast<double>(bidder[k * c.dim + d]));
      c.bidder[d * c.K + k] = v;
      c.bidder_f[d * c.K + k] = static_cast<float>(v - centre);
    }
    for (int64_t k = threadIdx.x; k < c.L; k += kAssignThreads) {
      const double v = scale(static_cast<double>(object[k * c.dim + d]));
      c.object[d * c.L + k] = v;
      c.object_f[d * c.L + k] = static_cast<float>(v - centre);
    }
  }
  __syncthreads();
  return true;
}

// min_j (c_ij + q_j) in float64 by one warp, prices normalised. Exact float coordinates allow a
// float scan as a filter: it errs by at most (dim + 6) units relative (and 1e-18 where squares
// underflow), so the true minimum is among the values within four times that.
template <typename S>
__device__ __noinline__ double Auction::row_minimum(int64_t i) {
  const int lane = threadIdx.x % 32;
  S least = static_cast<S>(INFINITY);
  scan<S>(c, S(0), i, lane, 32, [&](int64_t, S v) { least = v < least ? v : least; });
  const double best = warp_reduce(static_cast<double>(least), Min());
  if (sizeof(S) == sizeof(double)) return best;
  const double unit = 0x1p-24 * static_cast<double>(c.dim + 6);
  const double limit = best * (1.0 + 4.0 * unit) + 1e-18;
  double exact = INFINITY;
  scan<S>(c, S(0), i, lane, 32, [&](int64_t j, S v) {
    if (static_cast<double>(v) <= limit) exact = fmin(exact, cost(i, j) + c.price[j]);
  });
  return warp_reduce(exact, Min());
}

// The certified gap of the present assignment, from coordinates, prices and the row minima in best.
__device__ __noinline__ inline double Auction::gap_of_rows(double* mean_cost) {
  const double rows = block_over(shared, c.K, 0.0, Sum(), [&](int64_t i) { return c.best[i]; });
  const double prices = block_over(shared, c.L, 0.0, Sum(), [&](int64_t j) { return c.price[j]; });
  const double primal =
      block_over(shared, c.K, 0.0, Sum(), [&](int64_t i) { return cost(i, c.partner[i]); });
  *mean_cost = primal / static_cast<double>(c.K);
  return assign_gap(primal, rows, prices, c.K, c.dim, block_adds(c.L), exact);
}

// The certified gap of the present assignment, from nothing but coordinates and prices.
__device__ __noinline__ inline double Auction::certify(double* mean_cost) {
  normalise();
  for (int64_t i = threadIdx.x / 32; i < c.K; i += kAssignWarps) {
    const double least = c.float_exact ? row_minimum<float>(i) : row_minimum<double>(i);
    if (threadIdx.x % 32 == 0) c.best[i] = least;
  }
  __syncthreads();
  return gap_of_rows(mean_cost);
}

// Lowers every price as far as no row minimum in best falls: q_j = max(0, max_i (best_i - c_ij)),
// the c-transform of G. Peyre and M. Cuturi, "Computational Optimal Transport", Foundations and
// Trends in Machine Learning 11 (2019), section 5.1. The certified gap falls or stays, whatever the
// prices.
__device__ __noinline__ inline void Auction::tighten() {
  for (int64_t j = threadIdx.x; j < c.L; j += kAssignThreads) {
    double price = 0.0;
    for (int64_t i = 0; i < c.K; ++i) price = fmax(price, c.best[i] - cost(i, j));
    set_price(j, price);
  }
  __syncthreads();
}

__device__ inline void Auction::clear() {
  __syncthreads();
  for (int64_t j = threadIdx.x; j < c.L; j += kAssignThreads) {
    set_price(j, 0.0);
    c.key[j] = 0;
    c.winner[j] = INT_MAX;
    c.owner[j] = -1;
  }
  for (int64_t i = threadIdx.x; i < c.K; i += kAssignThreads) c.partner[i] = -1;
  level = 0.0;
  __syncthreads();
}

// After a phase that was cut short: the last whole phase, if any, else the nearest free objects.
__device__ inline void Auction::restore_or_complete() {
  __syncthreads();
  if (has_last) {
    level = last_level;
    for (int64_t j = threadIdx.x; j < c.L; j += kAssignThreads) set_price(j, c.last_price[j]);
    for (int64_t i = threadIdx.x; i < c.K; i += kAssignThreads) c.partner[i] = c.last_partner[i];
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

// Installs warm prices (in input units; what is not finite counts as 0) if they give a better
// lower bound than no prices, `nearest`, do.
__device__ inline bool load_prices(Auction& auction, const double* price_in, int exponent,
                                   double nearest) {
  const AuctionCloud& c = auction.c;
  for (int64_t j = threadIdx.x; j < c.L; j += kAssignThreads) {
    const double p = ldexp(price_in[j], -exponent);
    c.price[j] = isfinite(p) ? p : 0.0;
  }
  __syncthreads();
  const double least =
      block_over(auction.shared, c.L, INFINITY, Min(), [&](int64_t j) { return c.price[j]; });
  for (int64_t j = threadIdx.x; j < c.L; j += kAssignThreads) {
    auction.set_price(j, c.price[j] - least);
  }
  __syncthreads();
  const double prices =
      block_over(auction.shared, c.L, 0.0, Sum(), [&](int64_t j) { return c.price[j]; });
  if (auction.best_sum<float>() - prices > nearest) return true;
  auction.clear();
  return false;
}

// True if every partner is an object's owner and the other way round: an injection, if complete.
__device__ inline bool consistent(Auction& auction) {
  const AuctionCloud& c = auction.c;
  const auto wrong = [&](int64_t i) {
    const int64_t j = c.partner[i];
    return j < -1 || j >= c.L || (j >= 0 && c.owner[j] != i) ? 1.0 : 0.0;
  };
  const auto stray = [&](int64_t j) {
    const int64_t i = c.owner[j];
    return i < -1 || i >= c.K || (i >= 0 && c.partner[i] != j) ? 1.0 : 0.0;
  };
  return block_over(auction.shared, c.K, 0.0, Max(), wrong) == 0.0 &&
         block_over(auction.shared, c.L, 0.0, Max(), stray) == 0.0;
}

// Certifies what the integer solver left; goes on from there if that is not enough.
__device__ inline double finish_cloud(Auction& auction, double rtol, int64_t limit,
                                      double* mean_cost) {
  const AuctionCloud& c = auction.c;
  double gap = INFINITY, eps = c.head->eps;
  const double open =
      block_over(auction.shared, c.K, 0.0, Sum(), [&](int64_t i) { return c.partner[i] < 0; });
  if (open == 0.0) {
    gap = auction.gap_of_rows(mean_cost);
    if (gap <= rtol || auction.rounds >= limit) return gap;
    // Integer prices lie between rounded costs. Where many bidders pay the same or nothing, as
    // among duplicates, what rounding adds up to can be more than the gap of the few who travel.
    auction.tighten();
    gap = auction.certify(mean_cost);
    if (gap <= rtol) return gap;
  }
  for (int64_t j = threadIdx.x; j < c.L; j += kAssignThreads) {
    c.key[j] = 0;
    c.winner[j] = INT_MAX;
  }
  auction.war_bids = kAssignWarBids * c.K;
  auction.raise_cap = kAssignRaiseCap * eps;
  __syncthreads();
  if (auction.run<float>(eps, rtol, limit, -1, gap, mean_cost) == Outcome::kNeedsDouble) {
    auction.run<double>(eps, rtol, limit, -1, gap, mean_cost);
  }
  return gap;
}

// Solves a cloud that is neither empty nor degenerate; returns the certified gap.
__device__ inline double solve_cloud(Auction& auction, double rtol, int64_t max_rounds,
                                     const double* price_in, int exponent, double opening,
                                     double* mean_cost) {
  const AuctionCloud& c = auction.c;
  const int64_t limit = assign_round_limit(max_rounds, c.L);
  if (c.head->solved && consistent(auction)) {
    return finish_cloud(auction, rtol, limit, mean_cost);
  }
  auction.clear();
  auction.war_bids = kAssignWarBids * c.K;
  const double nearest = auction.best_sum<float>();
  // Coincident points can make every nearest cost 0 while the assignment is not free.
  double eps = nearest > 0.0 ? nearest / static_cast<double>(c.K) : opening;
  double gap = INFINITY;
  auction.raise_cap = kAssignRaiseCap * eps;
  const bool warm = price_in != nullptr && load_prices(auction, price_in, exponent, nearest);
  if (warm) eps /= kAssignWarmRatio;
  Outcome outcome =
      auction.run<float>(eps, rtol, limit, warm ? kAssignWarmBids * c.K : -1, gap, mean_cost);
  if (outcome == Outcome::kDropWarm) {
    auction.clear();
    eps *= kAssignWarmRatio;
    outcome = auction.run<float>(eps, rtol, limit, -1, gap, mean_cost);
  }
  if (outcome == Outcome::kNeedsDouble) auction.run<double>(eps, rtol, limit, -1, gap, mean_cost);
  return gap;
}

}  // namespace pointloss
