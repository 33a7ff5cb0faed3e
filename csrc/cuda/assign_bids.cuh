// SPDX-License-Identifier: MIT
// The auction of the integer assignment solver (see assign_solver.cuh): warps hold bidders.
//
// Asynchronous: a warp lets its bidder bid by one 64-bit maximum on (price, owner) of an object and
// goes on with whom that evicted, or with the next that waits; no warp waits for another. A price
// may have risen since it was read: then the bid either fails, or was made against values that have
// only become worse, so the winner's object is still within eps of its best. A scan that prices
// have overtaken raises them no further than what it left out allows, or by eps; what that is off
// shows as slack in the next phase. Which of many matchings results depends on the order in which
// warps come. Deterministic: the same with a barrier before and after the bids of a round. Values
// then come from the prices of the round before, equal bids go to the larger bidder, and whoever
// waits after the round is the same set in any order: so is the result, whatever the number of
// blocks.
// Source: D. P. Bertsekas and D. A. Castanon, "Parallel synchronous and asynchronous
// implementations of the auction algorithm", Parallel Computing 17 (1991).
#pragma once

#include "assign_state.cuh"

namespace pointloss {

// A scan takes in what lies within this many eps of the second best, for the sake of the cache.
constexpr int kSlackEps = 2;
// As many bid in a deterministic round as so many blocks have warps, fewer in small clouds.
constexpr int kRoundBlocks = 4;

// Queues every bidder of bidder_at(0), ..., bidder_at(count - 1) with take(i, true) in order, and
// calls with(i); returns how many. They may come from the queue itself. All lanes call take(),
// those beyond `count` with (0, false).
template <class Id, class BidderAt, class Take, class With>
__device__ __forceinline__ int queue_bidders_at(const SolverState<Id>& s, SolverShared& h,
                                                int count, BidderAt bidder_at, Take take,
                                                With with) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int start = 0;
  for (int k0 = 0; k0 < count; k0 += kSolverThreads) {
    const int k = k0 + static_cast<int>(threadIdx.x);
    const int i = k < count ? bidder_at(k) : 0;
    const bool taken = take(i, k < count);
    const unsigned mask = __ballot_sync(kWholeWarp, taken);
    __syncthreads();  // the last counts may still be being read
    if (lane == 0) h.base[warp] = __popc(mask);
    __syncthreads();
    int before = start;
    for (int w = 0; w < kSolverWarps; ++w) {
      const int more = h.base[w];
      before += w < warp ? more : 0;
      start += more;
    }
    if (!taken) continue;
    s.queue[before + rank_in(mask)] = static_cast<Id>(i);
    with(i);
  }
  __syncthreads();
  return start;
}

template <class Id, class Take, class With>
__device__ __forceinline__ int queue_bidders(const SolverState<Id>& s, SolverShared& h, Take take,
                                             With with) {
  return queue_bidders_at(
      s, h, s.N, [](int i) { return i; }, [&](int i, bool real) { return real && take(i); }, with);
}

template <class Id, bool kSquared>
struct Bids {
  using Scan = Scanner<Id, kSquared>;
  static constexpr int kNone = Scan::kNone;

  const SolverState<Id>& s;
  SolverShared& h;
  int eps;
  bool deterministic;

  __device__ __forceinline__ static unsigned long long word_of(int price, unsigned owner) {
    return (static_cast<unsigned long long>(price) << 32) | owner;
  }

  // Least price of group g, by one warp.
  __device__ __forceinline__ static int least_price(const SolverState<Id>& s, int g) {
    return warp_min(price_of(s.object[g * 32 + threadIdx.x % 32]));
  }
  __device__ __forceinline__ static void refresh_group(const SolverState<Id>& s, int g) {
    const int least = least_price(s, g);
    if (threadIdx.x % 32 == 0) s.box_price[g] = least;
  }
  // The same while bids raise prices, which leaves it too low at worst, no harm; an atomic, because
  // other warps read it meanwhile, and in small clouds write it.
  __device__ __forceinline__ static void raise_group(const SolverState<Id>& s, int g) {
    const int least = least_price(s, g);
    if (threadIdx.x % 32 == 0) atomicMax(s.box_price + g, least);
  }

  // Lets the `count` bidders of the queue bid until at most `enough` are without an object, or a
  // warp has bid `turns` times. Returns the most bids of a warp, or the rounds.
  __device__ __forceinline__ int run(int count, int enough, int turns) {
    for (int j = s.team.rank * kSolverThreads + threadIdx.x; j < s.N;
         j += s.team.size * kSolverThreads) {
      const int i = s.owner[j];
      s.bids[j] = word_of(price_of(s.object[j]), i == kNone ? kNobody : static_cast<unsigned>(i));
    }
    if (threadIdx.x == 0) {
      h.stop = count <= enough;
      if (s.team.rank == 0) s.board->head = 0, s.board->open = count, s.board->longest = 0;
    }
    s.team.sync();
    const int bids = deterministic ? rounds(count, enough, turns) : race(count, enough, turns);
    if (threadIdx.x % 32 == 0) atomicMax(&s.board->longest, bids);
    s.team.sync();
    settle();
    return load_fresh(&s.board->longest);
  }

  __device__ __forceinline__ int race(int count, int enough, int turns) {
    int i = kNone, bids = 0, group = first_group();
    for (; bids < turns && !stopped(); ++bids) {
      if (i == kNone) i = next_waiting(count);
      if (i == kNone) break;
      i = place(i, Scan::best_two(s, i, kSlackEps * eps), enough);
      if (bids % 4 == 3) raise_next(group);
    }
    return bids;
  }

  // The bidders of a round are as many for any number of blocks; a warp bids for some of them.
  __device__ __forceinline__ int rounds(int count, int enough, int turns) {
    const int first = s.team.rank * kSolverWarps + static_cast<int>(threadIdx.x) / 32;
    const int step = s.team.size * kSolverWarps, most = at_once();
    int held[kRoundBlocks], bids = 0, group = first_group();
    Top top[kRoundBlocks];
    for (int& i : held) i = kNone;
    for (; bids < turns && !stopped(); ++bids) {
#pragma unroll 1  // four copies of a scan take minutes to compile
      for (int k = 0; k < kRoundBlocks; ++k) {
        if (first + k * step >= most) break;
        if (held[k] == kNone) held[k] = next_waiting(count);
        if (held[k] != kNone) top[k] = Scan::best_two(s, held[k], kSlackEps * eps);
      }
      s.team.sync();
#pragma unroll 1
      for (int k = 0; k < kRoundBlocks; ++k) {
        if (first + k * step < most && held[k] != kNone) held[k] = place(held[k], top[k], enough);
      }
      if (bids % 4 == 3) raise_next(group);
      s.team.sync();
    }
    return bids;
  }

  // How many bidders bid at once.
  __device__ __forceinline__ int at_once() const {
    if (!deterministic) return s.team.size * kSolverWarps;
    return kSolverWarps * max(1, min(s.N / (4 * kSolverWarps), kRoundBlocks));
  }

  // Enough are served, or a price is too large; the same in all lanes.
  __device__ __forceinline__ bool stopped() const {
    const int stop = *const_cast<volatile int*>(&h.stop) | *const_cast<volatile int*>(&h.overflow);
    return __shfl_sync(kWholeWarp, stop, 0) != 0;
  }

  // Refreshes the least price of `group`, which becomes the warp's next.
  __device__ __forceinline__ void raise_next(int& group) const {
    raise_group(s, group);
    group = group + kSolverWarps < s.G ? group + kSolverWarps : first_group();
  }
  __device__ __forceinline__ int first_group() const {
    return static_cast<int>(threadIdx.x) / 32 % s.G;
  }

  __device__ __forceinline__ int next_waiting(int count) {
    int at = 0;
    if (threadIdx.x % 32 == 0) at = atomicAdd(&s.board->head, 1);
    at = __shfl_sync(kWholeWarp, at, 0);
    return at < count ? static_cast<int>(s.queue[at]) : kNone;
  }

  // Bids for bidder i; returns who is to bid next: i if it lost, else whom it evicted, else kNone.
  __device__ __forceinline__ int place(int i, const Top& top, int enough) {
    const int j = top.object;
    if (j == kNone) return i;  // the others were faster than its scan: it looks again
    const int price =
        min(top.second, top.best + kRaiseLimit) - Scan::cost(s.object[j], s.bidder[i]) + eps;
    const auto mine = word_of(price, static_cast<unsigned>(i));
    unsigned long long before = 0;
    if (threadIdx.x % 32 == 0) before = atomicMax(s.bids + j, mine);
    before = __shfl_sync(kWholeWarp, before, 0);
    const bool won = mine > before;
    s.team.raise(reinterpret_cast<int*>(&s.object[j].w),
                 won ? price : static_cast<int>(before >> 32));
    if (price > kPriceLimit) s.team.raise(&h.overflow, 1);
    if (!won) return i;
    const auto evicted = static_cast<unsigned>(before);
    if (evicted != kNobody) return static_cast<int>(evicted);
    int open = 0;
    if (threadIdx.x % 32 == 0) open = atomicSub(&s.board->open, 1) - 1;
    if (__shfl_sync(kWholeWarp, open, 0) <= enough) s.team.raise(&h.stop, 1);
    return kNone;
  }

  // Prices, owners and partners from the words.
  __device__ __forceinline__ void settle() {
    for (int i = threadIdx.x; i < s.N; i += kSolverThreads) s.partner[i] = static_cast<Id>(kNone);
    __syncthreads();
    for (int j = threadIdx.x; j < s.N; j += kSolverThreads) {
      const auto word = s.team.size > 1 ? load_fresh(s.bids + j) : s.bids[j];
      const auto i = static_cast<unsigned>(word);
      s.object[j].w = __int_as_float(static_cast<int>(word >> 32));
      s.owner[j] = static_cast<Id>(i == kNobody ? kNone : static_cast<int>(i));
      if (i != kNobody) s.partner[i] = static_cast<Id>(j);
    }
    __syncthreads();
    for (int g = threadIdx.x / 32; g < s.G; g += kSolverWarps) refresh_group(s, g);
    __syncthreads();
  }
};

}  // namespace pointloss
