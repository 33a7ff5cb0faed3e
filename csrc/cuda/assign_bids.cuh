// SPDX-License-Identifier: MIT
// The auction of the integer assignment solver (see assign_solver.cuh): every warp holds a bidder.
//
// Asynchronous: a warp lets its bidder bid by one 64-bit maximum on (price, owner) of an object and
// goes on with whom that evicted, or with the next that waits; no warp waits for another. A price
// may have risen since it was read: then the bid either fails, or was made against values that have
// only become worse, so the winner's object is still within eps of its best. Which of many
// matchings results depends on the order in which warps come. Deterministic: the same with a
// barrier before and after the bids of a round. Values then come from the prices of the round
// before, equal bids go to the larger bidder, and whoever waits after the round is the same set in
// any order: so is the result. Source: D. P. Bertsekas and D. A. Castanon, "Parallel synchronous
// and asynchronous implementations of the auction algorithm", Parallel Computing 17 (1991).
#pragma once

#include "assign_state.cuh"

namespace pointloss {

// A scan takes in what lies within this many eps of the second best, for the sake of the cache.
constexpr int kSlackEps = 2;

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

  // Least price of group g, by one warp. A price that rises meanwhile leaves it too low, no harm.
  __device__ __forceinline__ static void refresh_group(const SolverState<Id>& s, int g) {
    const int least = warp_min(price_of(s.object[g * 32 + threadIdx.x % 32]));
    if (threadIdx.x % 32 == 0) *const_cast<volatile int*>(s.box_price + g) = least;
  }

  // Lets the `count` bidders of the queue bid until at most `enough` are without an object, or a
  // warp has bid `turns` times. Returns the most bids of a warp.
  __device__ __forceinline__ int run(int count, int enough, int turns) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (int j = threadIdx.x; j < s.N; j += kSolverThreads) {
      const int i = s.owner[j];
      s.word[j] = word_of(price_of(s.object[j]), i == kNone ? kNobody : static_cast<unsigned>(i));
    }
    if (threadIdx.x == 0) h.head = 0, h.open = count, h.longest = 0;
    __syncthreads();
    int i = kNone, bids = 0, group = warp % s.G;
    for (; bids < turns; ++bids) {
      const int open = *const_cast<volatile int*>(&h.open);
      const int overflow = *const_cast<volatile int*>(&h.overflow);
      if (__shfl_sync(kWholeWarp, static_cast<int>(open <= enough || overflow != 0), 0)) break;
      if (i == kNone) i = next_waiting(count);
      if (i == kNone && !deterministic) break;
      Top top{0, 0, 0};
      if (i != kNone) top = Scan::best_two(s, i, kSlackEps * eps);
      if (deterministic) __syncthreads();
      if (i != kNone) i = place(i, top);
      if (bids % 4 == 3) {
        refresh_group(s, group);
        group = group + kSolverWarps < s.G ? group + kSolverWarps : warp % s.G;
      }
      if (deterministic) __syncthreads();
    }
    if (lane == 0) atomicMax(&h.longest, bids);
    __syncthreads();
    settle();
    return h.longest;
  }

  __device__ __forceinline__ int next_waiting(int count) {
    int at = 0;
    if (threadIdx.x % 32 == 0) at = atomicAdd(&h.head, 1);
    at = __shfl_sync(kWholeWarp, at, 0);
    return at < count ? static_cast<int>(s.queue[at]) : kNone;
  }

  // Bids for bidder i; returns who is to bid next: i if it lost, else whom it evicted, else kNone.
  __device__ __forceinline__ int place(int i, const Top& top) {
    const int j = top.object;
    const int price =
        min(top.second, top.best + kRaiseLimit) - Scan::cost(s.object[j], s.bidder[i]) + eps;
    const auto mine = word_of(price, static_cast<unsigned>(i));
    unsigned long long before = 0;
    if (threadIdx.x % 32 == 0) {
      before = atomicMax(s.word + j, mine);
      const int now = mine > before ? price : static_cast<int>(before >> 32);
      atomicMax(reinterpret_cast<int*>(&s.object[j].w), now);
      if (mine > before && static_cast<unsigned>(before) == kNobody) atomicSub(&h.open, 1);
      if (price > kPriceLimit) h.overflow = 1;
    }
    before = __shfl_sync(kWholeWarp, before, 0);
    if (mine <= before) return i;
    const auto evicted = static_cast<unsigned>(before);
    return evicted == kNobody ? kNone : static_cast<int>(evicted);
  }

  // Prices, owners and partners from the words.
  __device__ __forceinline__ void settle() {
    for (int i = threadIdx.x; i < s.N; i += kSolverThreads) s.partner[i] = static_cast<Id>(kNone);
    __syncthreads();
    for (int j = threadIdx.x; j < s.N; j += kSolverThreads) {
      const auto word = s.word[j];
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
