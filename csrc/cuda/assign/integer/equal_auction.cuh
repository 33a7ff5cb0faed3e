// SPDX-License-Identifier: MIT
// The auction of the integer solver for equal sizes (equal.cuh): a warp bids for one bidder.
//
// Asynchronous: a warp bids by one 64-bit atomic maximum on the price and owner of an object and
// goes on with the bidder that this evicted, or with the next that waits; no warp waits for
// another. A price may have risen since it was read: then the bid either fails, or was made against
// values that have only become worse, so the winner's object is still within eps of its best. If
// prices rise during a scan, its second-best value is capped by the bound of what was skipped (at
// least the best value). A bidder may also bid for an object that was good when it last looked and
// is within `relax` of the best now. Either error appears as slack in the next phase. The matching
// depends on the order in which warps come.
// Deterministic: the same with a barrier before and after the bids of a round. Values come from the
// prices of the round before, equal bids go to the larger bidder, and the bidders that wait after
// the round are the same set in any order: so is the result, whatever the number of blocks.
// Source: D. P. Bertsekas and D. A. Castanon, "Parallel synchronous and asynchronous
// implementations of the auction algorithm", Parallel Computing 17 (1991).
#pragma once

#include "prices.cuh"
#include "scan.cuh"

namespace pointloss {

// Of the counts base[0], ..., base[parts - 1]: the sum of those before number `part`, and of all.
struct Place {
  int before, all;
};
template <class State>
__device__ __forceinline__ Place place_of(const State& s, int part, int parts) {
  Place place{0, 0};
  for (int w = threadIdx.x % 32; w < parts; w += 32) {
    const int more = s.base[w];
    place.before += w < part ? more : 0;
    place.all += more;
  }
  return {warp_sum(place.before), warp_sum(place.all)};
}

// Queues every bidder of bidder_at(0), ..., bidder_at(count - 1) with take(i, true) in order, and
// calls with(i); returns how many. They may come from the queue itself. All lanes call take(),
// those beyond `count` with (0, false).
template <class State, class BidderAt, class Take, class With>
__device__ __forceinline__ int queue_bidders_at(const State& s, IntegerShared& h, int count,
                                                BidderAt bidder_at, Take take, With with) {
  const int lane = threadIdx.x % 32, warp = s.warp();
  int start = 0;
  for (int k0 = 0; k0 < count; k0 += s.threads()) {
    const int k = k0 + s.thread();
    const int i = k < count ? bidder_at(k) : 0;
    const bool taken = take(i, k < count);
    const unsigned mask = __ballot_sync(kWholeWarp, taken);
    s.sync();  // the last counts may still be being read
    if (lane == 0) s.base[warp] = __popc(mask);
    s.sync();
    const Place place = place_of(s, warp, s.warps());
    const int at = start + place.before + rank_in(mask);
    start += place.all;
    if (!taken) continue;
    s.queue[at] = static_cast<typename State::Id>(i);
    with(i);
  }
  s.sync();
  return start;
}

template <class State, class Take, class With>
__device__ __forceinline__ int queue_bidders(const State& s, IntegerShared& h, int count, Take take,
                                             With with) {
  return queue_bidders_at(
      s, h, count, [](int i) { return i; }, [&](int i, bool real) { return real && take(i); },
      with);
}

template <class Id, Cost kCost, class Blocks>
struct EqualAuction {
  static constexpr int kNone = EqualState<Id, kCost, Blocks>::kNone;

  const EqualState<Id, kCost, Blocks>& s;
  IntegerShared& h;
  int eps;
  int relax = 0;  // by how much a bid may miss the best object, unless deterministic

  // Lets the `count` bidders of the queue bid until at most `enough` are without an object, or a
  // warp has bid `turns` times. Returns the most bids of a warp, or the rounds.
  __device__ __forceinline__ int run(int count, int enough, int turns) {
    for (int j = s.cluster.rank * s.threads() + s.thread(); j < s.N;
         j += s.cluster.size * s.threads()) {
      s.bid[j] = bid_of(j);
    }
    if (s.thread() == 0) {
      h.stop = count <= enough;
      if (s.cluster.rank == 0) {
        s.exchange->next = 0, s.exchange->unassigned = count, s.exchange->longest = 0;
      }
    }
    s.cluster.sync();
    const int bids =
        s.in->deterministic ? rounds(count, enough, turns) : race(count, enough, turns);
    if (threadIdx.x % 32 == 0) atomicMax(&s.exchange->longest, bids);
    s.cluster.sync();
    take_bids();
    const int longest = load_fresh(&s.exchange->longest);
    s.cluster.sync();  // before anyone writes the next bids
    return longest;
  }

  // Price and owner of object j as a bid.
  __device__ __forceinline__ unsigned long long bid_of(int j) const {
    const int i = s.owner[j];
    return pack(s.price(j), i == kNone ? kNobody : static_cast<unsigned>(i));
  }

  __device__ __forceinline__ int race(int count, int enough, int turns) {
    int i = kNone, bids = 0, group = first_group();
    for (; bids < turns && !stopped(); ++bids) {
      if (i == kNone) i = next_waiting(count);
      if (i == kNone) break;
      i = place(i, best_two(s, i, kSlackEps * eps, relax), enough);
      if (bids % 4 == 3) raise_next(group);
    }
    if (bids >= turns) s.cluster.atomic_max(&h.stop, 1);  // nobody waits for this warp's bidder
    look_for_others(group);
    return bids;
  }

  // A warp that has no bidder left keeps bounds and caches of all fresh until the auction stops, so
  // that the few that still bid find what they need. What it writes holds at any time (LaneCache).
  __device__ __forceinline__ void look_for_others(int group) const {
    const int all = s.cluster.size * s.warps();
    int i = s.cluster.rank * s.warps() + s.warp();
    while (!stopped()) {
      raise_next(group);
      if (i >= s.in->K) i %= all;
      if (i < s.in->K) best_two(s, i, kAheadEps * eps);
      i += all;
      __nanosleep(kRest);
    }
  }

  // The bidders of a round are as many for any number of blocks; a warp bids for some of them.
  __device__ __forceinline__ int rounds(int count, int enough, int turns) {
    const int first = s.cluster.rank * s.warps() + s.warp();
    const int step = s.cluster.size * s.warps(), most = at_once();
    int held[kRoundBlocks], bids = 0, group = first_group();
    BestTwo<int> top[kRoundBlocks];
    for (int& i : held) i = kNone;
    for (; bids < turns && !stopped(); ++bids) {
#pragma unroll 1  // four copies of a scan take minutes to compile
      for (int k = 0; k < kRoundBlocks; ++k) {
        if (first + k * step >= most) break;
        if (held[k] == kNone) held[k] = next_waiting(count);
        if (held[k] != kNone) top[k] = best_two(s, held[k], kSlackEps * eps);
      }
      s.cluster.sync();
#pragma unroll 1
      for (int k = 0; k < kRoundBlocks; ++k) {
        if (first + k * step < most && held[k] != kNone) held[k] = place(held[k], top[k], enough);
      }
      if (bids % 4 == 3) raise_next(group);
      s.cluster.sync();
    }
    return bids;
  }

  // How many bidders bid at once.
  __device__ __forceinline__ int at_once() const {
    if (!s.in->deterministic) return s.cluster.size * s.warps();
    return kIntegerWarps * max(1, min(s.N / (4 * kIntegerWarps), kRoundBlocks));
  }

  // Enough have an object, or a price is too large; the same in all lanes.
  __device__ __forceinline__ bool stopped() const {
    const int stop = *const_cast<volatile int*>(&h.stop) | *const_cast<volatile int*>(&h.overflow);
    return __shfl_sync(kWholeWarp, stop, 0) != 0;
  }

  // Refreshes the least price of `group`, which becomes the warp's next, while bids raise prices:
  // it may be too low afterwards, which does no harm. An atomic, because other warps read it
  // meanwhile, and in small clouds write it.
  __device__ __forceinline__ void raise_next(int& group) const {
    const int least = least_price_of_group(s, group);
    const int along = warp_min(s.leaning(group * 32 + threadIdx.x % 32, group));
    if (threadIdx.x % 32 == 0) {
      atomicMax(s.box_price + group, least);
      atomicMax(reinterpret_cast<int*>(&s.lean[group].w), along);
    }
    group = group + s.warps() < s.G ? group + s.warps() : first_group();
  }
  __device__ __forceinline__ int first_group() const { return s.warp() % s.G; }

  __device__ __forceinline__ int next_waiting(int count) {
    int at = 0;
    if (threadIdx.x % 32 == 0) at = atomicAdd(&s.exchange->next, 1);
    at = __shfl_sync(kWholeWarp, at, 0);
    return at < count ? static_cast<int>(s.queue[at]) : kNone;
  }

  // Bids for bidder i; returns who is to bid next: i if it lost, else whom it evicted, else kNone.
  __device__ __forceinline__ int place(int i, const BestTwo<int>& top, int enough) {
    const int j = top.object;
    if (j == kNone) return i;  // prices rose faster than its scan went: it looks again
    const int price =
        min(top.second, top.best + kRaiseLimit) - s.cost(s.object[j], s.bidder[i]) + eps;
    const auto mine = pack(price, static_cast<unsigned>(i));
    unsigned long long before = 0;
    if (threadIdx.x % 32 == 0) before = atomicMax(s.bid + j, mine);
    before = __shfl_sync(kWholeWarp, before, 0);
    const bool won = mine > before;
    s.cluster.atomic_max(reinterpret_cast<int*>(&s.object[j].w),
                         won ? price : static_cast<int>(before >> 32));
    if (price > kPriceLimit) s.cluster.atomic_max(&h.overflow, 1);
    if (!won) return i;
    const auto evicted = static_cast<unsigned>(before);
    if (evicted != kNobody) return static_cast<int>(evicted);
    int left = 0;
    if (threadIdx.x % 32 == 0) left = atomicSub(&s.exchange->unassigned, 1) - 1;
    if (__shfl_sync(kWholeWarp, left, 0) <= enough) s.cluster.atomic_max(&h.stop, 1);
    return kNone;
  }

  // Prices, owners and partners from the bids that stand.
  __device__ __forceinline__ void take_bids() {
    for (int i = s.thread(); i < s.N; i += s.threads()) s.partner[i] = static_cast<Id>(kNone);
    s.sync();
    for (int j = s.thread(); j < s.N; j += s.threads()) {
      const auto bid = s.cluster.size > 1 ? load_fresh(s.bid + j) : s.bid[j];
      const auto i = static_cast<unsigned>(bid);
      s.set_price(j, static_cast<int>(bid >> 32));
      s.owner[j] = static_cast<Id>(i == kNobody ? kNone : static_cast<int>(i));
      if (i != kNobody) s.partner[i] = static_cast<Id>(j);
    }
    refresh_groups(s);
  }
};

}  // namespace pointloss
