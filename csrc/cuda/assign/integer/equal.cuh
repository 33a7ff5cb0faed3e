// SPDX-License-Identifier: MIT
// Assignment of a cloud to one that is as large or larger, in integers, by the thread blocks of a
// cluster or a team.
//
// Problem and dual: common/assign.h. Dummies with cost 0 for every object make up for the missing
// bidders. They are all alike, so they do not bid: one number, the level, is the price of what they
// have. It is the least price of all, hence dummies add nothing to primal or dual.
// Method: phases of falling eps. Bidders whose object is not within eps of their best lose it; then
// all without an object bid until few are left (equal_auction.cuh). If objects that bidders have
// left are dearer than the level, as many dummies lack an object: the level rises until there are
// enough, whoever has an object below it loses it, and the bidding goes on. The few without an
// object wait for the next phase; in the last, shortest augmenting paths match them and the dummies
// (augmenting_paths.cuh). Below the target gap the solver ends, else eps shrinks by the ratio that
// is missing.
// Source: D. P. Bertsekas, "The auction algorithm", Annals of Operations Research 14 (1988).
// Dummies: D. P. Bertsekas, D. A. Castanon, "A forward/reverse auction algorithm for asymmetric
// assignment problems", Computational Optimization and Applications 1 (1992).
// Cost: 2 (blob) to 17 (surface) bids per bidder, each of 64 cached values or of the near groups;
// then 8 to 400 rounds of paths. Memory O(N).
// Guaranteed: partners and owners are one another's, so an injection whenever all are assigned;
// every loop is bounded by the round limit, the number of objects or phases, or rising labels. Gap
// and assignment are not trusted: general/certificate.cuh checks both.
#pragma once

#include "augmenting_paths.cuh"
#include "duality_gap.cuh"
#include "load.cuh"
#include "opening.cuh"

namespace pointloss {

__host__ __device__ constexpr bool equal_supports(int64_t N, int64_t dim) {
  return dim <= 3 && N < kEqualMostPoints;
}

template <class Id, Cost kCost, class Blocks>
struct EqualSolver {
  static constexpr int kNone = EqualState<Id, kCost, Blocks>::kNone;

  const EqualState<Id, kCost, Blocks>& s;
  IntegerShared& h;
  int64_t rounds = 0;
  int eps = 1;
  bool given_complete = false;  // the given matching has an object for all K bidders
  bool coincident = false;      // all bidders coincide with objects

  __device__ __forceinline__ void load() {
    load_objects(s, h);
    for (int i = s.thread(); i < s.N; i += s.threads()) {
      s.bidder[i] = i < s.in->K ? s.bidder_in(i) : make_float4(kNowhere, kNowhere, kNowhere, 0.0f);
    }
    s.sync();
    load_boxes(s);
    s.sync();
    const float4 from = CentrePrices<EqualState<Id, kCost, Blocks>>{s, h}.centre();
    if (s.thread() == 0) s.lean[s.G] = from;
    for (int g = s.thread(); g < s.G; g += s.threads()) {
      const auto middle = [&](int d) {
        return 0.5f * (s.box[d * s.G + g] + s.box[(3 + d) * s.G + g]);
      };
      const float4 to =
          make_float4(middle(0) - from.x, middle(1) - from.y, middle(2) - from.z, 0.0f);
      const float length = sqrtf(fmaf(to.x, to.x, fmaf(to.y, to.y, to.z * to.z)));
      const float unit = length > 0.0f ? (1.0f - 0x1p-20f) / length : 0.0f;
      s.lean[g] = make_float4(unit * to.x, unit * to.y, unit * to.z, 0.0f);
    }
    s.sync();
  }

  // The blocks share out the rows.
  __device__ __forceinline__ void forget_caches() const {
    for (int k = s.cluster.rank * s.threads() + s.thread(); k < 32 * s.N;
         k += s.cluster.size * s.threads()) {
      s.cache[k] = kNotScanned;
    }
  }

  // Prices to start from: the given ones, or those of the centre if they promise a better bound, or
  // 0. Forgets caches and assignment, but for a matching that came with the prices. Returns the eps
  // to begin at, negative if that is not known yet.
  __device__ __forceinline__ double open(bool warm) {
    s.cluster.sync();  // all are done with the flags and bids of earlier phases
    if (s.thread() == 0) h.overflow = 0;
    for (int i = s.thread(); i < s.N; i += s.threads()) {
      s.partner[i] = static_cast<Id>(kNone);
    }
    forget_caches();
    double error = -1.0;
    if (warm) {
      load_prices(s, h);
      given_complete = s.in->idx_in != nullptr && Opening<Id, kCost, Blocks>{s, h}.take_matching();
    } else {
      restart_prices(s, [](int) { return 0; });
      given_complete = false;
      error = CentrePrices<EqualState<Id, kCost, Blocks>>{s, h}.set();
      refresh_groups(s);
    }
    find_level();
    for (int g = s.thread(); g < s.G; g += s.threads()) {
      if (s.cluster.rank == 0) s.best_count[g] = 0;
    }
    s.cluster.sync();
    return error * kCentreEps;
  }

  // Primal and dual. The slack of the bidders that have an object goes to slack[]; in a first pass
  // all best values to best[], and the K bidders are counted by the group of their best object.
  __device__ __forceinline__ Sums pass(bool first) {
    const int slack = first ? 2 * kCostError + 1 : kSlackEps * eps;  // at first for row_minima()
    const Sums sums = sum_gap(s, h, [&](int i) {
      const BestTwo<int> top = best_two(s, i, slack);
      if (threadIdx.x % 32 == 0) {
        const int j = s.partner[i];
        if (first) {
          s.found_best[i] = top.best;
          if (i < s.in->K) atomicAdd(s.best_count + top.object / 32, 1ull);
        } else {
          s.found_slack[i] = j == kNone ? INT_MAX : s.value(j, s.bidder[i]) - top.best;
        }
      }
      return top.best;
    });
    if (s.cluster.size > 1) {
      for (int i = s.thread(); i < s.N; i += s.threads()) {
        s.slack[i] = load_fresh(s.found_slack + i);
      }
      s.sync();
    }
    return sums;
  }

  // After a first pass: the best values become the slack of the bidders that have an object.
  __device__ __forceinline__ void best_to_slack() {
    for (int i = s.thread(); i < s.N; i += s.threads()) {
      const int j = s.partner[i];
      if (j != kNone) s.slack[i] = s.value(j, s.bidder[i]) - s.best[i];
    }
    s.sync();
  }

  // The level is the least of all prices.
  __device__ __forceinline__ void find_level() {
    const int least = least_of(s, h, s.G, [&](int g) { return s.box_price[g]; });
    if (s.thread() == 0) h.level = least;
    s.sync();
  }

  // Dummies leave their objects.
  __device__ __forceinline__ void drop_dummies() {
    for (int j = s.thread(); j < s.N; j += s.threads()) {
      if (s.owner[j] == s.in->K) s.owner[j] = static_cast<Id>(kNone);
    }
    s.sync();
  }

  // Queues the bidders without an object.
  __device__ __forceinline__ int queue_free() {
    return queue_bidders(s, h, s.in->K, [&](int i) { return s.partner[i] == kNone; }, [](int) {});
  }

  template <class Test>
  __device__ __forceinline__ int count_objects(Test test) const {
    int count = 0;
    for (int j0 = 0; j0 < s.N; j0 += s.threads()) {
      const int j = j0 + s.thread();
      count += s.count(j < s.N && test(j));
    }
    return count;
  }

  // If more than `enough` dummies find no object at the level, raises it until all do, and takes
  // its object from every bidder who pays no more. Returns whether it did.
  __device__ __forceinline__ bool raise_level(int enough) {
    const int dummies = s.N - s.in->K;
    int level = h.level;
    const auto unowned = [&](int j) { return s.price(j) <= level && s.owner[j] == kNone; };
    if (dummies == 0 || dummies - count_objects(unowned) <= enough) return false;
    int step = eps / 2;  // a finer one saves few bids and takes more auctions
    do {
      level += step + 1;
      step += step / 4;
    } while (count_objects([&](int j) { return s.price(j) <= level; }) < dummies);
    for (int j = s.thread(); j < s.N; j += s.threads()) {
      if (s.price(j) > level) continue;
      s.set_price(j, level);
      if (s.owner[j] == kNone) continue;
      s.partner[s.owner[j]] = static_cast<Id>(kNone);
      s.owner[j] = static_cast<Id>(kNone);
    }
    if (s.thread() == 0) h.level = level;
    refresh_groups(s);
    return true;
  }

  // Gives each dummy an object at the level, as long as there are any; h.missing: how many are
  // left. All dummies have the number K as owners.
  __device__ __forceinline__ void place_dummies() {
    const int dummies = s.N - s.in->K;
    if (dummies == 0) return;
    const int count = queue_bidders(
        s, h, s.N, [&](int j) { return s.owner[j] == kNone && s.price(j) <= h.level; }, [](int) {});
    for (int k = s.thread(); k < min(count, dummies); k += s.threads()) {
      s.owner[s.queue[k]] = static_cast<Id>(s.in->K);
    }
    if (s.thread() == 0) h.missing = max(dummies - count, 0);
    s.sync();
  }

  // Queues the bidders without an object, and the dummies if any of them is; returns how many.
  __device__ __forceinline__ int queue_roots() {
    const int left = queue_free();
    if (s.N == s.in->K || h.missing == 0) return left;
    if (s.thread() == 0) s.queue[left] = static_cast<Id>(s.in->K);
    s.sync();
    return left + 1;
  }

  // Frees every bidder whose slack is above eps and queues it with the others without an object.
  __device__ __forceinline__ int queue_slack() {
    return queue_bidders(
        s, h, s.in->K, [&](int i) { return s.partner[i] == kNone || s.slack[i] > eps; },
        [&](int i) {
          if (s.partner[i] == kNone) return;
          s.owner[s.partner[i]] = static_cast<Id>(kNone);
          s.partner[i] = static_cast<Id>(kNone);
        });
  }

  // Gives an object to every bidder that is left without. The first block does, the others help.
  __device__ __forceinline__ void match_rest() {
    if (s.cluster.rank == 0) {
      place_dummies();
      int quantum = 1;
      while (eps > 1 && quantum < kRaiseLimit && 2 * quantum <= eps * kQuantumEps) quantum *= 2;
      while (rounds < s.in->round_limit && h.overflow == 0) {
        const int left = queue_roots();
        if (left == 0) break;
        // Warps wait less for all rows of a frontier, but duplicates need few of them.
        const bool whole = !s.in->deterministic && !coincident;
        PathSearch<Id, kCost, Blocks> search{s, h, eps, quantum, whole};
        rounds += search.run(min(left, kMaxSources), s.in->round_limit - rounds);
      }
      if (s.cluster.size > 1) PathSearch<Id, kCost, Blocks>{s, h, eps, 1, false}.share(0, 0, 0);
    } else {
      PathSearch<Id, kCost, Blocks>{s, h, eps, 1, false}.help();
    }
    if (s.cluster.size > 1) share_assignment();
    find_level();
  }

  __device__ __forceinline__ void share_assignment() {
    EqualAuction<Id, kCost, Blocks> auction{s, h, eps};
    if (s.cluster.rank == 0) {
      for (int j = s.thread(); j < s.N; j += s.threads()) s.bid[j] = auction.bid_of(j);
      if (s.thread() == 0) s.exchange->rounds = rounds, s.exchange->overflow = h.overflow;
    }
    s.cluster.sync();
    rounds = load_fresh(&s.exchange->rounds);
    if (s.cluster.rank == 0) return;
    if (s.thread() == 0) h.overflow = load_fresh(&s.exchange->overflow);
    auction.take_bids();
  }

  __device__ __forceinline__ void set_eps(double value) {
    eps = max(1, static_cast<int>(fmin(value, static_cast<double>(kRaiseLimit))));
  }

  // Phases from the first eps down until the integer gap is within its tolerance; false: a bound
  // was hit, or the integers are too coarse.
  __device__ __forceinline__ bool phases(bool warm) {
    double next = open(warm), best = 1.0;  // eps of the next phase; greatest lower bound so far
    bool last_phase = false, abandoned = false;
    // By the pair's size and not by its ids: a pair is solved alike in any batch.
    const bool large = s.N > kSmallObjects;
    const auto bidders = static_cast<float>(s.in->K);
    const int left = large ? max(kLargeLeastLeft, static_cast<int>(kLargeLeftPart * bidders))
                           : max(kLeastLeft, min(kMostLeft, static_cast<int>(kLeftPart * bidders)));
    for (int phase = 0; phase < kMaxPhases; ++phase) {
      const Sums sums = pass(phase == 0);
      const double tolerance = s.in->tolerance(sums.primal);
      const bool met = sums.gap() <= tolerance;
      best = fmax(best, sums.dual);
      if (last_phase && met) return true;
      const double finest = fmax(1.0, kLastEps * s.in->tolerance(best) / s.in->K);
      if (phase == 0) {
        if (warm && sums.dual <= 0.0) return false;
        if (given_complete && met) {
          set_eps(finest);
          return true;
        }
        if (next < 0.0) {
          const Opening<Id, kCost, Blocks> opening{s, h};
          next = opening.first_eps(warm, best / s.in->K, s.in->tolerance(best) / s.N);
        }
      } else if (abandoned) {
        next = best / s.in->K;
      } else if (!last_phase) {
        next /= kAssignTheta;
      } else {
        if (next <= 1.0) return sums.gap() <= kCoarseGap * sums.primal;
        next *= fmin(fmax(0.8 * tolerance / sums.gap(), 0.25), 0.8);
      }
      if (!last_phase && next < 1.6 * finest) next = finest;
      last_phase = next <= 1.3 * finest;
      set_eps(next);
      if (warm && phase == 0 && s.in->idx_in != nullptr) best_to_slack();
      drop_dummies();
      int count = queue_slack();
      const bool fine_start = warm && phase == 0 && next < best / s.in->K;
      const float relax = (last_phase ? kLastRelaxEps : kRelaxEps) * static_cast<float>(eps);
      EqualAuction<Id, kCost, Blocks> auction{s, h, eps, min(static_cast<int>(relax), kPriceLimit)};
      const int warps = s.in->deterministic ? kIntegerWarps : s.warps();
      int64_t turns = int64_t{kPhaseTurns} * (s.N / warps + 8);
      if (phase == 0) coincident = sums.dual <= 0.0;
      if (phase == 0 && coincident) turns = kCoincidentTurns * (s.N / kIntegerWarps + 8);
      if (fine_start) turns = kWarmTurns * (s.N / auction.at_once() + 8);
      turns = min(turns, s.in->round_limit - rounds);
      int taken = 0;
      do {
        taken += auction.run(count, left, static_cast<int>(turns - taken));
        count = taken < turns && h.overflow == 0 && raise_level(left) ? queue_free() : -1;
      } while (count >= 0);
      rounds += taken;
      abandoned = fine_start && taken >= turns;
      last_phase = last_phase && !abandoned;
      if (last_phase) match_rest();
      if (h.overflow != 0 || rounds >= s.in->round_limit) return false;
    }
    return false;
  }
};

// `state` has the arrays of the whole cluster; those of the block come to lie at `memory`. `box`:
// shared memory for a team's boxes, or null.
template <class Id, Cost kCost, class Blocks>
__device__ __forceinline__ void solve_equal(EqualState<Id, kCost, Blocks> state,
                                            IntegerShared& shared, char* memory, float* box,
                                            const PairArrays& to) {
  Arena<16> arena(memory);
  take_arrays(state, arena);
  if (box != nullptr) state.box = box;
  if (state.cluster.size == 1) {
    state.bid = state.best_count = state.sort_key;
    state.found_best = state.best, state.found_slack = state.slack;
  }
  const IntegerInput& in = *state.in;
  EqualSolver<Id, kCost, Blocks> solver{state, shared};
  solver.load();
  bool done = in.price_in != nullptr && solver.phases(true);
  if (!done && solver.rounds < in.round_limit) done = solver.phases(false);
  finish(
      state, shared, done, solver.rounds, solver.eps,
      [&](int i) { return best_two(state, i, 2 * kCostError).best; }, to);
}

}  // namespace pointloss
