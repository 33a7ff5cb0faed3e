// SPDX-License-Identifier: MIT
// Certified assignment of one pair of point clouds by one thread block: the auction.
//
// Problem and dual: common/assign.h. Bidders are the points of the smaller cloud.
// Method: Jacobi auction with eps-scaling. In a round every unassigned bidder bids for its best
// object; the highest bid wins, equal bids go to the lowest bidder, and whoever is evicted bids in
// the next round. More objects than bidders: `level` is the price of all that phantom bidders own
// and the least of all prices; refill() lets phantoms bid their way up (see the CPU twin).
// Source: D. P. Bertsekas, "The auction algorithm", Annals of Operations Research 14 (1988).
// Map: block = cloud; warp = bidder when there are many, else the warps share out the objects.
// Scans run in float while eps is coarse enough for it, in double after that.
// Cost: 30 to 50 bids a bidder at L values each, in ten thousand rounds or more, most of them with
// a single bidder; the rounds, not the values, take the time.
// Guaranteed: as on the CPU (injection, termination, certificate); the same result bit for bit on
// every run, since no result depends on the order of a list or of atomics.
#pragma once

#include <cmath>

#include "../common/assign.h"
#include "assign_block.cuh"
#include "assign_instructions.cuh"
#include "assign_team.cuh"

namespace pointloss {

// Float scans need eps above these parts of the median and of the mean value, and, for double
// input, of the extent (scaled to about 1), to which its rounding to float is relative.
constexpr double kFloatMedianEps = 0x1p-18;
constexpr double kFloatMeanEps = 0x1p-24;
constexpr double kFloatExtentEps = 0x1p-17;

// What the kernels that follow each other on a cloud tell the next.
struct CloudHead {
  bool finite, solved;  // the coordinates are; the integer solver left prices and an assignment
  int exponent;         // the clouds are scaled by 2^-exponent; INT_MIN: all points coincide
  int64_t rounds;
  double eps;
};

// One pair of clouds in global memory, scaled by 2^-exponent; arrays as long as their comment says.
struct AuctionCloud {
  double *bidder, *object;      // [D, K], [D, L]
  float *bidder_f, *object_f;   // the same, double input with the centre taken off
  double *price, *last_price;   // [L]; last_*: at the end of the last whole phase
  float* price_f;               // [L]
  unsigned long long* key;      // [L] bits of the highest bid of the round, else 0
  int *winner, *owner;          // [L] lowest bidder with the highest bid; bidder or -1
  int *partner, *last_partner;  // [K] object or -1
  int* queue[2];                // [K] bidders of this and of the next round
  int* target;                  // [K] object of the bid of queue entry q
  double *bid, *best, *slack;   // [K] bid price of queue entry q; best value and slack of bidder i
  int* order;                   // [L] of the integer solver: objects along a curve
  int64_t* cache;               // [K and those that it adds, 32] its cached objects
  TeamBoard* board;             // [1] of its blocks
  char* state;                  // its arrays, where they do not fit shared memory
  char* rectangle;              // of the solver for unequal sizes
  CloudHead* head;              // [1]
  int64_t K, L, dim;
  bool squared, float_exact;
};

template <typename S>
struct ScanArrays;
template <>
struct ScanArrays<float> {
  const float *bidder, *object, *price;
  __device__ explicit ScanArrays(const AuctionCloud& c)
      : bidder(c.bidder_f), object(c.object_f), price(c.price_f) {}
  // Errs by up to two units (2^-23), the sum under the root by (dim + 2) / 2, price and addition by
  // two more: within the dim + 6 that row_minimum allows for.
  __device__ static float root(float a) { return approximate_root(a); }
};
template <>
struct ScanArrays<double> {
  const double *bidder, *object, *price;
  __device__ explicit ScanArrays(const AuctionCloud& c)
      : bidder(c.bidder), object(c.object), price(c.price) {}
  __device__ static double root(double a) { return __dsqrt_rn(a); }
};

// Calls use(j, value) for the objects first, first + step, ... of bidder i. kDim = 0: any.
template <typename S, int kDim, class Use>
__device__ __forceinline__ void scan_values(const AuctionCloud& c, S level, int64_t i,
                                            int64_t first, int64_t step, Use use) {
  const ScanArrays<S> a(c);
  const int64_t K = c.K, L = c.L, dim = kDim > 0 ? kDim : c.dim;
  const bool squared = c.squared;
  S own[kDim > 0 ? kDim : 1];
  for (int d = 0; d < kDim; ++d) own[d] = a.bidder[d * K + i];
#pragma unroll(kDim > 0 ? 4 : 1)
  for (int64_t j = first; j < L; j += step) {
    S sum = 0;
#pragma unroll(kDim > 0 ? kDim : 1)
    for (int64_t d = 0; d < dim; ++d) {
      const S t = (kDim > 0 ? own[kDim > 0 ? d : 0] : a.bidder[d * K + i]) - a.object[d * L + j];
      sum = fma(t, t, sum);
    }
    const S p = a.price[j];
    use(j, (squared ? sum : ScanArrays<S>::root(sum)) + (p > level ? p : level));
  }
}

template <typename S, class Use>
__device__ __forceinline__ void scan(const AuctionCloud& c, S level, int64_t i, int64_t first,
                                     int64_t step, Use use) {
  if (c.dim == 3) return scan_values<S, 3>(c, level, i, first, step, use);
  if (c.dim == 2) return scan_values<S, 2>(c, level, i, first, step, use);
  scan_values<S, 0>(c, level, i, first, step, use);
}

enum class Outcome { kDone, kNeedsDouble, kStopped, kDropWarm };

// The scalars are the same in every thread; only the arrays and `shared` are shared.
struct Auction {
  AuctionCloud c;
  BlockShared& shared;
  double level = 0.0, last_level = 0.0, raise_cap = 0.0;
  double exact = 0.0;  // the gap of the last certificate that is as good as 0
  bool has_last = false;
  int64_t rounds = 0, war_bids = 0;

  struct Slack {
    double gap, finest, finest_float;
  };

  __device__ double cost(int64_t i, int64_t j) const {
    return assign_cost(c.bidder + i, c.K, c.object + j, c.L, c.dim, c.squared);
  }
  __device__ double effective(int64_t j) const { return fmax(c.price[j], level); }
  __device__ void set_price(int64_t j, double price) {
    c.price[j] = price;
    c.price_f[j] = static_cast<float>(price);
  }

  // Best two values of bidder i by `warps` warps, of which this is number `part`.
  template <typename S>
  __device__ __noinline__ Best<S> warp_best(int64_t i, int part, int warps) {
    Best<S> top{static_cast<S>(INFINITY), static_cast<S>(INFINITY), INT_MAX};
    scan<S>(c, static_cast<S>(level), i, part * 32 + threadIdx.x % 32, warps * 32,
            [&](int64_t j, S v) {
              // Ascending j: on a tie the first stays.
              const bool better = v < top.best;
              const S larger = better ? top.best : v;
              top.second = larger < top.second ? larger : top.second;
              top.object = better ? static_cast<int>(j) : top.object;
              top.best = better ? v : top.best;
            });
    return lanes_merge(top, 32);
  }

  template <typename S>
  __device__ double bid_price(const Best<S>& top, double eps) const {
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
    for (int q = threadIdx.x / 32; q < count; q += kAssignWarps) {
      const Best<S> top = warp_best<S>(queue[q], 0, 1);
      if (threadIdx.x % 32 != 0) continue;
      c.target[q] = top.object;
      c.bid[q] = bid_price(top, eps);
      atomicMax(c.key + top.object, key_of(c.bid[q]));
    }
    __syncthreads();
    for (int q = threadIdx.x; q < count; q += kAssignThreads) {
      const int j = c.target[q];
      if (c.key[j] == key_of(c.bid[q])) atomicMin(c.winner + j, queue[q]);
    }
    __syncthreads();
    for (int q = threadIdx.x; q < count; q += kAssignThreads) {
      const int i = queue[q], j = c.target[q];
      const int waiting = c.winner[j] == i ? hand_over(i, j, c.bid[q]) : i;
      if (waiting >= 0) next[atomicAdd(next_count, 1)] = waiting;
    }
    __syncthreads();
    for (int q = threadIdx.x; q < count; q += kAssignThreads) {
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
      const Best<S> top = warp_best<S>(queue[warp / warps], warp % warps, warps);
      if (lane == 0) shared.part[warp] = {top.best, top.second, top.object};
    }
    __syncthreads();
    if (warp == 0) {
      const int q = lane / warps;
      Best<double> top{INFINITY, INFINITY, INT_MAX};
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
    while (2 * warps * count <= kAssignWarps) warps *= 2;
    if (warps == 1) return many_bids<S>(queue, count, eps, next, next_count);
    few_bids<S>(queue, count, warps, eps, next, next_count);
  }

  // Phantoms bid for as many of the cheapest objects as are unowned above the level. Bidders that
  // own an object at the new level are all evicted: more than needed on ties, which is as valid.
  __device__ __noinline__ void refill(int* queue, int* count) {
    if (c.K == c.L) return;
    const auto missing = static_cast<int64_t>(block_over(shared, c.L, 0.0, Sum(), [&](int64_t j) {
      return c.owner[j] < 0 && c.price[j] > level ? 1.0 : 0.0;
    }));
    if (missing == 0) return;
    level = block_select(shared, c.L, missing - 1, [&](int64_t j) {
      const bool phantom = c.owner[j] < 0 && !(c.price[j] > level);
      return phantom ? kNoKey : static_cast<unsigned long long>(__double_as_longlong(effective(j)));
    });
    for (int64_t j = threadIdx.x; j < c.L; j += kAssignThreads) {
      const int i = c.owner[j];
      if (i < 0 || c.price[j] > level) continue;
      c.partner[i] = -1;
      c.owner[j] = -1;
      queue[atomicAdd(count, 1)] = i;
    }
    __syncthreads();
  }

  // Assigns every bidder; false when a bound was hit first.
  template <typename S>
  __device__ __noinline__ bool run_phase(double& eps, int64_t round_limit, int64_t bid_limit) {
    int side = 0;
    __syncthreads();
    if (threadIdx.x < 2) shared.count[threadIdx.x] = 0;
    __syncthreads();
    for (int64_t i = threadIdx.x; i < c.K; i += kAssignThreads) {
      if (c.partner[i] < 0) c.queue[0][atomicAdd(shared.count, 1)] = static_cast<int>(i);
    }
    __syncthreads();
    int64_t bids = 0, war_start = 0;
    while (true) {
      if (shared.count[side] == 0) refill(c.queue[side], shared.count + side);
      const int count = shared.count[side];
      if (count == 0) break;
      if (rounds >= round_limit || (bid_limit >= 0 && bids > bid_limit)) return false;
      if (bids - war_start > war_bids) {
        eps *= kAssignTheta * kAssignTheta;
        raise_cap = fmax(raise_cap, kAssignRaiseCap * eps);
        war_start = bids;
      }
      ++rounds;
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
    for (int64_t i = threadIdx.x / 32; i < c.K; i += kAssignWarps) {
      const Best<S> top = warp_best<S>(i, 0, 1);
      if (threadIdx.x % 32 == 0) c.best[i] = static_cast<double>(top.best);
    }
    __syncthreads();
    return block_over(shared, c.K, 0.0, Sum(), [&](int64_t i) { return c.best[i]; });
  }

  // Lowers all prices together until the least is zero.
  __device__ __noinline__ void normalise() {
    const double least =
        block_over(shared, c.L, INFINITY, Min(), [&](int64_t j) { return effective(j); });
    for (int64_t j = threadIdx.x; j < c.L; j += kAssignThreads) {
      set_price(j, effective(j) - least);
    }
    level = 0.0;
    __syncthreads();
  }

  // Estimates the gap from the slack (own value - best value) of every bidder.
  template <typename S>
  __device__ __noinline__ Slack measure_slack() {
    normalise();
    const double mean = best_sum<S>() / static_cast<double>(c.K);
    for (int64_t i = threadIdx.x; i < c.K; i += kAssignThreads) {
      const int j = c.partner[i];
      c.slack[i] = fmax(0.0, cost(i, j) + c.price[j] - c.best[i]);
    }
    __syncthreads();
    const double total = block_over(shared, c.K, 0.0, Sum(), [&](int64_t i) { return c.slack[i]; });
    const double primal =
        block_over(shared, c.K, 0.0, Sum(), [&](int64_t i) { return cost(i, c.partner[i]); });
    const double largest =
        block_over(shared, c.K, 0.0, Max(), [&](int64_t i) { return c.best[i]; });
    const double median =
        block_select(shared, c.K, (c.K - 1) / 2, [&](int64_t i) { return key_of(c.best[i]); });
    Slack slack;
    slack.gap = primal > 0.0 ? total / primal : 0.0;
    slack.finest = fmax(kAssignEpsFloor * median, kAssignEpsUnderflow * largest);
    slack.finest_float = fmax(kFloatMedianEps * median, kFloatMeanEps * mean);
    slack.finest_float = fmax(slack.finest_float, assign_float_floor(c.squared));
    if (!c.float_exact) slack.finest_float = fmax(slack.finest_float, kFloatExtentEps);
    return slack;
  }

  __device__ double gap_of_rows(double* mean_cost);
  __device__ void tighten();
  __device__ double certify(double* mean_cost);
  template <typename S>
  __device__ double row_minimum(int64_t i);
  // Clears prices and assignment.
  __device__ void clear();
  template <typename S>
  __device__ Outcome run(double& eps, double rtol, int64_t round_limit, int64_t bid_limit,
                         double& gap, double* mean_cost);
  __device__ void restore_or_complete();
};

// Phases at eps, eps / 5, ... until the certificate meets rtol. Leaves the assignment complete
// unless the outcome is kDropWarm. `gap` and `mean_cost` are certified for kDone and kStopped.
template <typename S>
__device__ __noinline__ Outcome Auction::run(double& eps, double rtol, int64_t round_limit,
                                             int64_t bid_limit, double& gap, double* mean_cost) {
  const bool is_float = sizeof(S) == sizeof(float);
  if (is_float && eps < assign_float_floor(c.squared)) return Outcome::kNeedsDouble;
  for (;; bid_limit = -1) {
    if (!run_phase<S>(eps, round_limit, bid_limit)) {
      if (rounds < round_limit) return Outcome::kDropWarm;
      restore_or_complete();
      gap = certify(mean_cost);
      return Outcome::kStopped;
    }
    const Slack slack = measure_slack<S>();
    gap = slack.gap;
    const bool hopeful = gap <= rtol || gap == 0.0;
    const bool last = eps <= 1.5 * slack.finest;  // the next eps could only be the finest itself
    if (hopeful || (last && !is_float)) {
      gap = certify(mean_cost);
      if (gap <= rtol) return Outcome::kDone;
      if (last && !is_float) return Outcome::kStopped;
    }
    last_level = level;
    has_last = true;
    for (int64_t j = threadIdx.x; j < c.L; j += kAssignThreads) c.last_price[j] = c.price[j];
    for (int64_t i = threadIdx.x; i < c.K; i += kAssignThreads) c.last_partner[i] = c.partner[i];
    eps = fmax(assign_next_eps(eps, gap, rtol), slack.finest);
    for (int64_t i = threadIdx.x; i < c.K; i += kAssignThreads) {
      if (c.slack[i] <= eps) continue;
      c.owner[c.partner[i]] = -1;
      c.partner[i] = -1;
    }
    __syncthreads();
    if (is_float && eps < slack.finest_float) return Outcome::kNeedsDouble;
  }
}

}  // namespace pointloss
