// SPDX-License-Identifier: MIT
// The auction of the integer solver for unequal sizes (unequal.cuh): synchronous rounds of bids.
//
// In a round the first kRoundBids bidders of the queue bid, a warp for each; the highest bid for an
// object wins, equal bids go to the lowest bidder. Noise of up to eps / 4, another for each bidder
// and round, is added to the values, else many bidders would bid for the same object.
// Map: the blocks share out the bids of a round and send them to one another; then each applies all
// of them to its own prices and owners. So the result does not depend on how many blocks there are,
// and is the same bit for bit on every run.
#pragma once

#include "load.cuh"
#include "prices.cuh"
#include "scan.cuh"

namespace pointloss {

struct UnequalShared : IntegerShared {
  int object[2][kRoundBids], price[2][kRoundBids];  // bids of an even and of an odd round
  int round_overflow[2];                            // a price was too large
  int waiting[kRoundBids];                          // who has no object after a bid, or -1
  int waits, wins;
  unsigned long long unowned_sum;  // prices of unowned objects
  int unowned_highest;
};

template <Cost kCost>
struct UnequalAuction {
  const UnequalState<kCost>& s;
  UnequalShared& h;
  int64_t rounds = 0;
  int64_t war = 0;  // bids won that a phase may take at its eps
  int eps = 1, parity = 0;

  // No bids yet.
  __device__ __forceinline__ void clear() {
    for (int q = threadIdx.x; q < kRoundBids; q += kIntegerThreads) {
      h.object[0][q] = h.object[1][q] = h.price[0][q] = h.price[1][q] = INT_MIN;
    }
    if (threadIdx.x < 2) h.round_overflow[threadIdx.x] = 0;
  }

  // Bids for bidder i, which is number q of this round.
  __device__ __forceinline__ void bid(int i, int q) {
    const unsigned salt =
        static_cast<unsigned>(i) * 0x85ebca77u ^ static_cast<unsigned>(rounds) * 0xc2b2ae3du;
    const Noise noise{salt, static_cast<unsigned>(eps) / 4 + 1};
    const BestTwo<int> top = best_two(s, i, s.bidder_at(i), kMostRaise * eps, noise);
    const int raise = min(max(top.second - top.best, 0), kMostRaise * eps);
    const int price = s.price(top.object) + raise + eps;
    if (threadIdx.x % 32 == 0) s.last_group[i] = top.object / 32;
    if (price > kPriceLimit) s.cluster.atomic_max(&h.round_overflow[parity], 1);
    s.cluster.atomic_max(&h.object[parity][q], top.object);
    s.cluster.atomic_max(&h.price[parity][q], price);
  }

  // Applies the bids of a round: one warp per bid, then the queue.
  __device__ __forceinline__ void apply(int head, int bids, int behind) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, K = s.in->K;
    const int *objects = h.object[parity], *prices = h.price[parity];
    const auto bidder_of = [&](int q) { return s.queue[(head + q) % K]; };
    for (int q = warp; q < bids; q += kIntegerWarps) {
      const int i = bidder_of(q), j = objects[q], price = prices[q];
      bool beaten = false;
      for (int other = lane; other < bids; other += 32) {
        const bool higher =
            prices[other] > price || (prices[other] == price && bidder_of(other) < i);
        beaten |= objects[other] == j && higher;
      }
      const bool lost = __ballot_sync(kWholeWarp, beaten) != 0;
      if (lane != 0) continue;
      h.waiting[q] = lost ? i : s.owner[j];
      if (!lost) s.owner[j] = i, s.set_price(j, price);
    }
    __syncthreads();
    for (int q = warp; q < bids; q += kIntegerWarps) refresh_group(s, objects[q] / 32);
    if (warp == 0) {
      int waits = 0, wins = 0;
      for (int q0 = 0; q0 < bids; q0 += 32) {
        const int i = q0 + lane < bids ? h.waiting[q0 + lane] : -1;
        const unsigned mask = __ballot_sync(kWholeWarp, i >= 0);
        const int at = head + bids + behind + waits + rank_in(mask);
        const bool won = q0 + lane < bids && i != bidder_of(q0 + lane);
        wins += __popc(__ballot_sync(kWholeWarp, won));
        __syncwarp();  // all lanes have read bidder_of(), whose places come round again
        if (i >= 0) s.queue[at % K] = i;
        waits += __popc(mask);
      }
      if (lane == 0) h.waits = waits, h.wins = wins;
    }
    __syncthreads();
    for (int q = threadIdx.x; q < bids; q += kIntegerThreads) {
      h.object[parity][q] = h.price[parity][q] = INT_MIN;
    }
  }

  // Lets all bidders bid until each owns an object. False: a bound was hit.
  __device__ __forceinline__ bool run() {
    const int K = s.in->K;
    __syncthreads();
    for (int i = threadIdx.x; i < K; i += kIntegerThreads) s.queue[i] = i;
    __syncthreads();
    int head = 0, count = K;
    int64_t wins = 0;
    while (count > 0) {
      if (rounds >= s.in->round_limit) return false;
      if (wins > war) {  // a price war for which eps is too small
        eps = min(static_cast<int>(kAssignTheta * kAssignTheta) * min(eps, kRaiseLimit / 32),
                  kRaiseLimit);
        wins = 0;
        war *= 2;
      }
      const int now = min(count, kRoundBids);
      for (int q = static_cast<int>(threadIdx.x) / 32 * s.cluster.size + s.cluster.rank; q < now;
           q += kIntegerWarps * s.cluster.size) {
        bid(s.queue[(head + q) % K], q);
      }
      s.cluster.sync();
      if (h.round_overflow[parity] != 0) return false;
      apply(head, now, count - now);
      head = (head + now) % K;
      count += h.waits - now;
      wins += h.wins;
      parity ^= 1;
      ++rounds;
    }
    return true;
  }

  // Lowers asking prices to what was paid: the last bid for an object left it eps higher.
  __device__ __forceinline__ void lower_to_paid() {
    for (int j = threadIdx.x; j < s.N; j += kIntegerThreads) {
      if (s.owner[j] >= 0) s.set_price(j, max(s.price(j) - eps, 0));
    }
    refresh_groups(s);
  }
};

}  // namespace pointloss
