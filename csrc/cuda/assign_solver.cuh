// SPDX-License-Identifier: MIT
// Assignment of one pair of (nearly) equally large clouds by the thread blocks of a team, in
// integers.
//
// Problem and dual: common/assign.h, for as many objects as bidders. Where bidders are missing,
// others to whom every object costs nothing take their place: what those own then costs as little
// as anything in the end, and as the least price is 0, they add nothing to primal or dual.
// Method: phases of falling eps. Bidders whose object is not within eps of their best lose it, then
// all without an object bid until few are left (assign_bids.cuh). Those stay for the next phase; in
// the last, shortest augmenting paths serve them (assign_paths.cuh). The gap is summed in integers;
// below the target the solver ends, else eps is halved. Assignment and gap are not trusted: the
// certificate is computed in float64 from coordinates, prices and row minima (assign_minima.cuh),
// and what misses it goes on in the general solver (assign_auction.cuh), as do more than three
// dimensions and costs that differ by more than the 2^26 steps of the integers.
// Source: eps-scaling and bids after D. P. Bertsekas, "The auction algorithm", Annals of Operations
// Research 14 (1988); the sources of bids and paths stand in their files.
//
// Parameters, by simulation and on an H200 at 32 x 2048, 1 %: theta 5 is flat from 4 to 8. Two
// samples of a surface are fastest from 3 to 6 mean nearest costs on (20 % slower at 1, 50 % at
// 0.5); noisy copies and blobs gain 10 % at 0.5. N / 256 are left over: N / 512 takes 1 ms off a
// surface's paths and adds 2 ms of bids, N / 128 adds 2.5 ms of paths and takes off 1 ms of bids.
// The last eps is 1.6 times what the gap allows if it were the mean slack: at 2, blobs fail by a
// hair and pay for another phase.
//
// Cost: 8 to 17 bids a bidder, each of 64 cached values or of the near groups; 500 to 1200 bids in
// a row by one warp at 1.5 to 2 us (blob: 7), then 13 (blob) to 500 (surface) rounds of paths at 5.
// The slowest of 32 surfaces takes 1.7 times the mean and sets the time. Memory O(N).
//
// What did not help: coarse phases that leave N / 64 or more take 2 to 3 times the bids; paths in
// every phase, twice the rounds; a team of 4 is slower than one of 3 where 4 do not all fit at
// once; a small first eps that grows when the bids go on (surfaces lose 5 to 18 %); blocks of 768
// threads (no spills, same time) or 512 (20 % slower); one copy of the code for warm and cold (5 %
// slower). The deterministic mode's bids cost 2.4 times as much, in all 1.3 to 2.2 times
// (3.3 times on the blobs of benchmarks/bench_assign.py, which is more than it should be).
//
// Guaranteed: partners and owners are one another's, so an injection whenever all are assigned;
// every loop is bounded by the round limit, the number of objects or phases, or rising labels.
#pragma once

#include "../common/assign.h"
#include "assign_minima.cuh"
#include "assign_paths.cuh"

namespace pointloss {

// An auction ends when this part of the bidders (at least kLeastLeft) has no object.
constexpr float kLeftPart = 0x1p-8f;
constexpr int kLeastLeft = 4;
// A cold start begins at this many times the mean nearest cost, or at fewer if the clouds are so
// alike or so far apart that prices need not rise much beyond it (see unevenness()).
constexpr double kOpeningEps = 4.0, kNearEps = 0.5;
// Two samples of one shape (surfaces: 1.6 to 1.7, a standard deviation of 1.7 sqrt(64 / N)); noisy
// copies have 0.3 to 0.6, a cloud that bids for a few objects hundreds.
constexpr double kTwoSamples = 1.7, kFarCloud = 16.0;
// The last eps is this many times the gap wanted: the mean slack is well below eps.
constexpr double kLastEps = 1.6;
// An auction gives up after this many bids of a warp for each turn of all bidders.
constexpr int kPhaseTurns = 64;
constexpr int kMaxPhases = 64;
// A gap that even the finest integer eps leaves above this is for another solver from the start.
constexpr double kCoarseGap = 1e-3;
// Clouds up to this size have ids of 16 bits.
constexpr int64_t kShortIds = 60000;

__host__ __device__ constexpr bool solver_serves(int64_t N, int64_t dim) {
  return dim <= 3 && N < (int64_t{1} << kBidderBits);
}

// What the solver leaves: prices (units of 2^-kCostBits) and owners by object, partners by bidder.
struct SolverOutput {
  double* price;
  float* price_f;
  int *owner, *partner;
  double* minimum;  // min_j (c_ij + p_j) by bidder, in float64
  int64_t rounds;
  double eps;
  bool solved;  // or stopped by the bound on rounds
};

template <class Id, bool kSquared>
struct Solver {
  using Scan = Scanner<Id, kSquared>;
  static constexpr int kNone = Scan::kNone;

  SolverState<Id> s;
  SolverShared& h;
  const SolverInput& in;
  int* order;  // [N] object at position j of the curve
  int64_t rounds = 0;
  int eps = 1;

  // Prices to start from: price_in less its least value, or 0; forgets caches and assignment.
  __device__ __forceinline__ void set_prices(bool warm) {
    const auto units = [&](int j) {
      const double p = in.price_in[order[j]] * in.price_scale * static_cast<double>(1 << kCostBits);
      return p > -kPriceLimit && p < kPriceLimit ? static_cast<int>(p) : 0;  // NaN: 0
    };
    if (threadIdx.x == 0) h.least = INT_MAX, h.overflow = 0;
    __syncthreads();
    if (warm) {
      int least = INT_MAX;
      for (int j = threadIdx.x; j < s.N; j += kSolverThreads) least = min(least, units(j));
      least = warp_min(least);
      if (threadIdx.x % 32 == 0) atomicMin(&h.least, least);
    }
    __syncthreads();
    for (int j = threadIdx.x; j < s.N; j += kSolverThreads) {
      const int64_t price = warm ? static_cast<int64_t>(units(j)) - h.least : 0;
      s.object[j].w = __int_as_float(price < kRaiseLimit ? static_cast<int>(price) : kRaiseLimit);
      s.owner[j] = static_cast<Id>(kNone);
    }
    for (int i = threadIdx.x; i < s.N; i += kSolverThreads) {
      if (s.team.rank == 0) s.bound[i] = INT_MIN;
      s.partner[i] = static_cast<Id>(kNone);
    }
    __syncthreads();
    for (int g = threadIdx.x / 32; g < s.G; g += kSolverWarps) {
      Bids<Id, kSquared>::refresh_group(s, g);
    }
    for (int g = threadIdx.x; g < s.G; g += kSolverThreads) {
      if (s.team.rank == 0) s.bids[g] = 0;
    }
    s.team.sync();
  }

  struct Sums {
    double primal, dual;
  };
  // How unevenly the best objects lie among the groups, after a first pass: the variance of the
  // bidders for a group, in units of their mean (32 if none is missing). See kTwoSamples.
  __device__ __forceinline__ double unevenness() {
    const int64_t mean = (int64_t{32} * in.K + s.N / 2) / s.N;
    if (threadIdx.x == 0) h.price_sum = 0;
    __syncthreads();
    for (int g = threadIdx.x; g < s.N / 32; g += kSolverThreads) {
      const auto count = s.team.size > 1 ? load_fresh(s.bids + g) : s.bids[g];
      const long long more = static_cast<long long>(count) - mean;
      atomicAdd(&h.price_sum, static_cast<unsigned long long>(more * more));
    }
    __syncthreads();
    const double squares = static_cast<double>(h.price_sum);
    __syncthreads();
    return squares / fmax(static_cast<double>(mean * (s.N / 32)), 1.0);
  }

  // Best value of every bidder; the slack of those that have an object goes to reach[].
  // Counts the groups of the best objects of the K in bids[], if asked to.
  __device__ __forceinline__ Sums pass(bool counting) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    if (threadIdx.x == 0) h.value_sum = h.cost_sum = h.price_sum = 0;
    __syncthreads();
    unsigned long long values = 0, costs = 0, prices = 0;
    for (int i = s.team.rank * kSolverWarps + warp; i < s.N; i += s.team.size * kSolverWarps) {
      const Top top = Scan::best_two(s, i, kSlackEps * eps);
      int slack = INT_MAX;
      const int j = s.partner[i];
      if (j != kNone) {
        const float4 o = s.object[j];
        const int cost = Scan::cost(o, s.bidder[i]);
        costs += cost;
        slack = cost + price_of(o) - top.best;
      }
      values += top.best;
      if (lane == 0) s.slack[i] = slack;
      if (lane == 0 && counting && i < in.K) atomicAdd(s.bids + top.object / 32, 1ull);
    }
    for (int j = threadIdx.x; j < s.N; j += kSolverThreads) prices += price_of(s.object[j]);
    for (int offset = 16; offset > 0; offset /= 2) {
      prices += __shfl_xor_sync(kWholeWarp, prices, offset);
    }
    if (lane == 0) {
      atomicAdd(&h.value_sum, values);
      atomicAdd(&h.cost_sum, costs);
      atomicAdd(&h.price_sum, prices);
    }
    __syncthreads();
    return team_sums();
  }

  __device__ __forceinline__ Sums team_sums() {
    if (threadIdx.x == 0) {
      s.board->values[s.team.rank] = h.value_sum;
      s.board->costs[s.team.rank] = h.cost_sum;
    }
    s.team.sync();
    unsigned long long values = 0, costs = 0;
    for (int r = 0; r < s.team.size; ++r) {
      values += load_fresh(s.board->values + r);
      costs += load_fresh(s.board->costs + r);
    }
    if (s.team.size > 1) {
      for (int i = threadIdx.x; i < s.N; i += kSolverThreads) s.reach[i] = load_fresh(s.slack + i);
    }
    const auto dual = static_cast<long long>(values) - static_cast<long long>(h.price_sum);
    __syncthreads();
    return {static_cast<double>(costs), static_cast<double>(dual)};
  }

  // Queues every bidder with take(i) in order, after calling with(i); returns how many.
  template <class Take, class With>
  __device__ __forceinline__ int queue_bidders(Take take, With with) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int start = 0;
    for (int i0 = 0; i0 < s.N; i0 += kSolverThreads) {
      const int i = i0 + static_cast<int>(threadIdx.x);
      const bool taken = i < s.N && take(i);
      const unsigned mask = __ballot_sync(kWholeWarp, taken);
      __syncthreads();  // the last counts may still be being read
      if (lane == 0) h.base[warp] = __popc(mask);
      __syncthreads();
      int before = start;
      for (int w = 0; w < kSolverWarps; ++w) {
        const int count = h.base[w];
        before += w < warp ? count : 0;
        start += count;
      }
      if (!taken) continue;
      s.queue[before + __popc(mask & ((1u << lane) - 1))] = static_cast<Id>(i);
      with(i);
    }
    __syncthreads();
    return start;
  }

  // Frees every bidder whose slack is above eps and queues it with the others without an object.
  __device__ __forceinline__ int queue_slack() {
    return queue_bidders([&](int i) { return s.reach[i] > eps; },
                         [&](int i) {
                           if (s.partner[i] == kNone) return;
                           s.owner[s.partner[i]] = static_cast<Id>(kNone);
                           s.partner[i] = static_cast<Id>(kNone);
                         });
  }

  // Gives an object to every bidder that is left without. The first block does, the others wait.
  __device__ __forceinline__ void serve_rest() {
    if (s.team.rank == 0) {
      int quantum = 1;
      while (2 * quantum <= eps) quantum *= 2;
      while (rounds < in.round_limit && h.overflow == 0) {
        const int left = queue_bidders([&](int i) { return s.partner[i] == kNone; }, [](int) {});
        if (left == 0) break;
        PathSearch<Id, kSquared> search{s, h, eps, quantum, in.deterministic};
        rounds += search.run(min(left, kMaxSources), in.round_limit - rounds);
      }
    }
    if (s.team.size > 1) share_assignment();
  }

  __device__ __forceinline__ void share_assignment() {
    using Auction = Bids<Id, kSquared>;
    if (s.team.rank == 0) {
      for (int j = threadIdx.x; j < s.N; j += kSolverThreads) {
        const int i = s.owner[j];
        s.bids[j] = Auction::word_of(price_of(s.object[j]),
                                     i == kNone ? kNobody : static_cast<unsigned>(i));
      }
      if (threadIdx.x == 0) s.board->rounds = rounds, s.board->overflow = h.overflow;
    }
    s.team.sync();
    rounds = load_fresh(&s.board->rounds);
    if (s.team.rank == 0) return;
    if (threadIdx.x == 0) h.overflow = load_fresh(&s.board->overflow);
    Auction{s, h, eps, false}.settle();
  }

  // Mean nearest costs to begin at: three standard deviations below two samples is a noisy copy.
  __device__ __forceinline__ double opening() {
    const double uneven = unevenness(), groups = s.N / 32;
    const bool alike = groups > 0.0 && uneven < kTwoSamples * (1.0 - 3.0 * sqrt(2.0 / groups));
    return alike || uneven > kFarCloud ? kNearEps : kOpeningEps;
  }

  // Phases from the first eps down until the integer gap is within `target`; false: a bound was
  // hit.
  __device__ __forceinline__ bool phases(bool warm, double target) {
    set_prices(warm);
    double next = -1.0, best = 1.0;
    bool last = false;
    const int left = max(kLeastLeft, static_cast<int>(kLeftPart * static_cast<float>(s.N)));
    for (int phase = 0; phase < kMaxPhases; ++phase) {
      const Sums sums = pass(phase == 0);
      best = fmax(best, sums.dual);
      if (last && sums.primal - sums.dual <= target * sums.primal) return true;
      const double finest = fmax(1.0, kLastEps * target * best / s.N);
      if (phase == 0) {
        if (warm && sums.dual <= 0.0) return false;
        next = best / in.K * (warm ? 1.0 / kAssignWarmRatio : opening());
      } else if (!last) {
        next /= kAssignTheta;
        if (next < 1.6 * finest) next = finest;
      } else {
        if (next <= 1.0) return sums.primal - sums.dual <= kCoarseGap * sums.primal;
        next *= 0.5;
      }
      last = next <= 1.3 * finest;
      eps = max(1, static_cast<int>(fmin(next, static_cast<double>(kRaiseLimit))));
      const int count = queue_slack();
      const int64_t turns = int64_t{kPhaseTurns} * (s.N / kSolverWarps + 8);
      Bids<Id, kSquared> bids{s, h, eps, in.deterministic};
      rounds += bids.run(count, left, static_cast<int>(min(turns, in.round_limit - rounds)));
      if (last) serve_rest();
      if (h.overflow != 0 || rounds >= in.round_limit) return false;
    }
    return false;
  }

  // The least price, in h.least.
  __device__ __forceinline__ void find_least() {
    if (threadIdx.x == 0) h.least = INT_MAX;
    __syncthreads();
    int least = INT_MAX;
    for (int j = threadIdx.x; j < s.N; j += kSolverThreads) {
      least = min(least, price_of(s.object[j]));
    }
    least = warp_min(least);
    if (threadIdx.x % 32 == 0) atomicMin(&h.least, least);
    __syncthreads();
  }

  __device__ __forceinline__ void store(const SolverOutput& out) {
    for (int j = threadIdx.x; j < s.N; j += kSolverThreads) {
      const int k = order[j], i = s.owner[j];
      const bool owned = i != kNone && i < in.K;
      out.price[k] = (price_of(s.object[j]) - h.least) * (1.0 / (1 << kCostBits));
      out.price_f[k] = static_cast<float>(out.price[k]);
      out.owner[k] = owned ? i : -1;
      if (owned) out.partner[i] = k;
    }
    for (int i = threadIdx.x; i < in.K; i += kSolverThreads) {
      if (s.partner[i] == kNone) out.partner[i] = -1;
    }
    __syncthreads();
  }
};

// `state` holds the arrays in global memory; the others come to lie at `memory`.
template <class Id, bool kSquared>
__device__ __forceinline__ void solve_integers(const SolverInput& in, SolverShared& shared,
                                               SolverState<Id> state, char* memory, int* order,
                                               SolverOutput& out) {
  lay_out(state, memory);
  state.team = Team::here();
  if (state.team.size == 1) state.bids = state.word, state.slack = state.reach;
  Solver<Id, kSquared> solver{state, shared, in, order};
  Loader<Id, kSquared>{state, shared, in, order}.run();
  const double target = fmax(in.rtol * (1.0 - 0x1p-10) - 1e-7, 1e-7);
  bool done = in.price_in != nullptr && solver.phases(true, target);
  if (!done && solver.rounds < in.round_limit) done = solver.phases(false, target);
  solver.find_least();
  if (state.team.rank == 0) solver.store(out);
  out.rounds = solver.rounds;
  out.eps = solver.eps * (1.0 / (1 << kCostBits));
  out.solved = done || solver.rounds >= in.round_limit;
  if (out.solved) {
    RowMinima<Id, kSquared>{state, in, order, shared.least}.run(out.minimum);
  }
  state.team.sync();  // none leaves while others may still write into its memory
}

}  // namespace pointloss
