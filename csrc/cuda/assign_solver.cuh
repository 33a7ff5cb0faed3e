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
// below the target the solver ends, else eps shrinks by what was missed. Assignment and gap are not
// trusted: the certificate is computed in float64 from coordinates, prices and row minima
// (assign_minima.cuh). What misses it, if tighter prices (assign_finish.cuh) do not help, goes on
// in the general solver (assign_auction.cuh), as do more than three dimensions and costs that
// differ by more than the 2^26 steps of the integers.
// Source: eps-scaling and bids after D. P. Bertsekas, "The auction algorithm", Annals of Operations
// Research 14 (1988); the sources of bids and paths stand in their files.
//
// Parameters, by simulation and on an H200 at 32 x 2048, 1 %: theta 5 is flat from 4 to 8. Two
// samples of a surface are fastest from 3 to 6 mean nearest costs on (20 % slower at 1, 50 % at
// 0.5); noisy copies gain 10 % at 0.5. N / 256 are left over: N / 512 takes 1 ms off a surface's
// paths and adds 2 ms of bids, N / 128 adds 2 ms of paths and takes off 1 ms of bids. The last eps
// is 1.4 times what the gap allows if it were the mean slack: at 1.6, blobs fail by a hair and pay
// for another phase. Blobs begin at the prices of their centre (assign_opening.cuh): 77 instead of
// 470 bids in a row, 1.1 instead of 6.4 ms.
//
// Cost: 2 (blob) to 17 bids a bidder, each of 64 cached values or of the near groups; 80 (blob, at
// 7 us) to 1200 (surface, at 2 us) bids in a row by one warp, then 8 (blob) to 400 (surface)
// rounds of paths at 6 us. The slowest of 32 surfaces takes 1.7 times the mean and sets the time.
// Memory O(N).
//
// What did not help: coarse phases that leave N / 64 or more take 2 to 3 times the bids; paths in
// every phase, twice the rounds; a team of 4 is slower than one of 3 where 4 do not all fit at
// once; a small first eps that grows when the bids go on (surfaces lose 5 to 18 %); prices of
// entropic transport between clusters of both clouds (in simulation no fewer bids for surfaces and
// hardly fewer than the centre's for blobs); blocks of 768 threads (no spills, same time) or 512
// (20 % slower); one copy of the code for warm and cold (5 % slower). The deterministic mode takes
// twice the time.
//
// Guaranteed: partners and owners are one another's, so an injection whenever all are assigned;
// every loop is bounded by the round limit, the number of objects or phases, or rising labels.
#pragma once

#include "../common/assign.h"
#include "assign_minima.cuh"
#include "assign_opening.cuh"
#include "assign_paths.cuh"

namespace pointloss {

// An auction ends when this part of the bidders (at least kLeastLeft) has no object.
constexpr float kLeftPart = 0x1p-8f;
constexpr int kLeastLeft = 4;
// The last eps is this many times the gap wanted: the mean slack is well below eps.
constexpr double kLastEps = 1.4;
// An auction gives up after this many bids of a warp for each turn of all bidders.
constexpr int kPhaseTurns = 64;
constexpr int kMaxPhases = 64;
// The path search rounds distances to a power of two of at most this many eps. At 1, paths take a
// fifth longer; at 8, some clouds miss the gap.
constexpr float kQuantumEps = 4.0f;
// A warm start begins at the mean of what objects miss being a bidder's best by, if prices fit: if
// the best objects lie more evenly than the first number, or if no object of a sample misses by
// more than so many gaps wanted, as in a blob, where a coarse gap leaves the best objects uneven
// (blobs: 1.3 to 1.6, rarely 2.1; two of 256 clouds of a training: less than 2). It gives that up
// after this many bids of a warp for each turn of all bidders. Else it begins at the mean best
// value: in a training, where the clouds of a sample move for an epoch before it comes again, a
// finer eps costs several times a cold start.
constexpr double kWarmUneven = 1.0, kWarmMiss = 2.0;
constexpr int kWarmTurns = 8;
// A gap that even the finest integer eps leaves above this is for another solver from the start.
constexpr double kCoarseGap = 1e-3;
// Larger clouds are for another solver: here they have not been tried.
constexpr int64_t kMostPoints = 1 << 18;
// Clouds up to this size have ids of 16 bits.
constexpr int64_t kShortIds = 60000;

__host__ __device__ constexpr bool solver_serves(int64_t N, int64_t dim) {
  return dim <= 3 && N < kMostPoints;
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
  bool whole = false;  // the matching that was given serves all K bidders

  // Prices to start from: price_in less its least value, or those of the centre if they serve, or
  // 0. Forgets caches and assignment, but for a matching that came with the prices. Returns the eps
  // to begin at, negative if that is not known yet.
  __device__ __forceinline__ double set_prices(bool warm) {
    const auto units = [&](int j) { return in.price_units(order[j]); };
    s.team.sync();  // all are done with the flags and words of earlier phases
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
    const Opening<Id, kSquared> opening{s, h, in, order};
    const double off = warm ? -1.0 : opening.centre_prices();
    whole = warm && in.idx_in != nullptr && opening.given_matching();
    __syncthreads();
    for (int g = threadIdx.x / 32; g < s.G; g += kSolverWarps) {
      Bids<Id, kSquared>::refresh_group(s, g);
    }
    for (int g = threadIdx.x; g < s.G; g += kSolverThreads) {
      if (s.team.rank == 0) s.bids[g] = 0;
    }
    s.team.sync();
    return off * kCentreEps;
  }

  struct Sums {
    double primal, dual;
  };
  // Best value of every bidder. The slack of those that have an object goes to reach[]; in a first
  // pass the best value instead, and the groups of the best objects of the K are counted in bids[].
  __device__ __forceinline__ Sums pass(bool first) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    if (threadIdx.x == 0) h.value_sum = h.cost_sum = h.price_sum = 0;
    __syncthreads();
    unsigned long long values = 0, costs = 0, prices = 0;
    for (int i = s.team.rank * kSolverWarps + warp; i < s.N; i += s.team.size * kSolverWarps) {
      const Top top = Scan::best_two(s, i, kSlackEps * eps);
      int slack = first ? top.best : INT_MAX;
      const int j = s.partner[i];
      if (j != kNone) {
        const float4 o = s.object[j];
        const int cost = Scan::cost(o, s.bidder[i]);
        costs += cost;
        if (!first) slack = cost + price_of(o) - top.best;
      }
      values += top.best;
      if (lane == 0) s.slack[i] = slack;
      if (lane == 0 && first && i < in.K) atomicAdd(s.bids + top.object / 32, 1ull);
    }
    for (int j = threadIdx.x; j < s.N; j += kSolverThreads) prices += price_of(s.object[j]);
    prices = warp_sum(prices);
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

  // After a first pass: reach[] becomes the slack of those that have an object.
  __device__ __forceinline__ void take_slack() {
    for (int i = threadIdx.x; i < s.N; i += kSolverThreads) {
      const int j = s.partner[i];
      if (j != kNone) s.reach[i] = Scan::value(s.object[j], s.bidder[i]) - s.reach[i];
    }
    __syncthreads();
  }

  // Frees every bidder whose slack is above eps and queues it with the others without an object.
  __device__ __forceinline__ int queue_slack() {
    return queue_bidders(
        s, h, [&](int i) { return s.partner[i] == kNone || s.reach[i] > eps; },
        [&](int i) {
          if (s.partner[i] == kNone) return;
          s.owner[s.partner[i]] = static_cast<Id>(kNone);
          s.partner[i] = static_cast<Id>(kNone);
        });
  }

  // Gives an object to every bidder that is left without. The first block does, the others wait.
  __device__ __forceinline__ void serve_rest() {
    s.team.sync();  // all have read the words of the auction
    if (s.team.rank == 0) {
      int quantum = 1;
      while (eps > 1 && quantum < kRaiseLimit && 2 * quantum <= eps * kQuantumEps) quantum *= 2;
      while (rounds < in.round_limit && h.overflow == 0) {
        const int left =
            queue_bidders(s, h, [&](int i) { return s.partner[i] == kNone; }, [](int) {});
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

  __device__ __forceinline__ void set_eps(double value) {
    eps = max(1, static_cast<int>(fmin(value, static_cast<double>(kRaiseLimit))));
  }

  // The eps to begin at, after the first pass; `wanted`: the gap of a bidder.
  __device__ __forceinline__ double first_eps(bool warm, double mean, double wanted) {
    const Opening<Id, kSquared> opening{s, h, in, order};
    if (!warm) return mean * opening.nearest_costs();
    const double uneven = opening.unevenness();
    const auto misses = opening.misses();
    const bool fits = uneven < kWarmUneven || misses.worst < kWarmMiss * wanted;
    return fits ? fmin(misses.mean, mean) : mean;
  }

  // Phases from the first eps down until the integer gap is within `target`; false: a bound was
  // hit.
  __device__ __forceinline__ bool phases(bool warm, double target) {
    double next = set_prices(warm), best = 1.0;
    bool last = false, cut = false;
    const int left = max(kLeastLeft, static_cast<int>(kLeftPart * static_cast<float>(s.N)));
    for (int phase = 0; phase < kMaxPhases; ++phase) {
      const Sums sums = pass(phase == 0);
      const double open_gap = sums.primal - sums.dual;
      best = fmax(best, sums.dual);
      if (last && open_gap <= target * sums.primal) return true;
      const double finest = fmax(1.0, kLastEps * target * best / s.N);
      if (phase == 0) {
        if (warm && sums.dual <= 0.0) return false;
        if (whole && open_gap <= target * sums.primal) {
          set_eps(finest);
          return true;
        }
        if (next < 0.0) next = first_eps(warm, best / in.K, target * best / s.N);
      } else if (cut) {
        next = best / in.K;
      } else if (!last) {
        next /= kAssignTheta;
      } else {
        if (next <= 1.0) return open_gap <= kCoarseGap * sums.primal;
        next *= fmin(fmax(0.8 * target * sums.primal / open_gap, 0.25), 0.8);
      }
      if (!last && next < 1.6 * finest) next = finest;
      last = next <= 1.3 * finest;
      set_eps(next);
      if (warm && phase == 0 && in.idx_in != nullptr) take_slack();
      const int count = queue_slack();
      const bool careful = warm && phase == 0 && next < best / in.K;
      Bids<Id, kSquared> bids{s, h, eps, in.deterministic};
      int64_t turns = int64_t{kPhaseTurns} * (s.N / kSolverWarps + 8);
      if (careful) turns = kWarmTurns * (s.N / bids.at_once() + 8);
      turns = min(turns, in.round_limit - rounds);
      const int taken = bids.run(count, left, static_cast<int>(turns));
      rounds += taken;
      cut = careful && taken >= turns;
      last = last && !cut;
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
