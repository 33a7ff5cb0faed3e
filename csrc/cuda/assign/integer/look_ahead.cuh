// SPDX-License-Identifier: MIT
// Which rows of a large frontier the path search (augmenting_paths.cuh) expands first.
//
// Where all objects are about equally good for all bidders, as for a blob far from a surface, most
// of the cloud lies within one bucket of labels, though a few rows reach a free object. Each row of
// a large frontier therefore computes the smallest label it can give a free object. Rows whose own
// label is not below the minimum of these are postponed, except a few that attain it. If the
// minimum lies outside the current bucket, the rows instead look at objects whose owners could move
// to a free object at equal cost (one step of a search from the other end). A postponed row keeps
// its label and comes again as long as that is below the label of the nearest free object, so
// nothing is lost but rounds.
#pragma once

#include "equal_auction.cuh"

namespace pointloss {

constexpr int kUnreached = INT_MAX;
constexpr int kUnlisted = INT_MIN;

template <class Id, Cost kCost, class Blocks>
struct LookAhead {
  static constexpr int kNone = EqualState<Id, kCost, Blocks>::kNone;

  const EqualState<Id, kCost, Blocks>& s;
  IntegerShared& h;
  int quantum;  // of distances

  // Lists the free objects of group g, by one warp.
  __device__ __forceinline__ void list_free(int g) const {
    const int j = g * 32 + threadIdx.x % 32;
    const bool free = j < s.N && s.owner[j] == kNone;
    const unsigned mask = __ballot_sync(kWholeWarp, free);
    if (mask == 0) return;
    const int at = append_place(&h.frees, mask);
    if (free && at < kMaxFree) h.free_object[at] = j;
  }

  // Lists objects whose owners could move to a free one at equal cost, one by each of as many warps
  // as a block has.
  __device__ __forceinline__ void list_near() const {
    const int warp = s.warp();
    int found = warp < kIntegerWarps ? kNone : 0;
    for (int i0 = warp * 32; i0 < s.N && found == kNone; i0 += kIntegerThreads) {
      const int i = i0 + static_cast<int>(threadIdx.x) % 32;
      const int j = i < s.N ? static_cast<int>(s.partner[i]) : kNone;
      bool near = false;
      if (j != kNone) {
        const float4 at = s.bidder[i];
        const int most = s.value(j, at) + quantum;
        for (int k = 0; k < h.frees; ++k) near |= s.value(h.free_object[k], at) < most;
      }
      const unsigned all = __ballot_sync(kWholeWarp, near);
      if (all != 0) found = __shfl_sync(kWholeWarp, j, __ffs(all) - 1);
    }
    if (threadIdx.x % 32 == 0 && warp < kIntegerWarps) h.near[warp] = found;
    s.sync();
  }

  // Least label that row i offers to a free object, or to one listed by list_near().
  __device__ __forceinline__ int label(int i, int floor, bool near) const {
    const float4 at = s.bidder[i];
    int distance = kUnreached;
    for (int k = 0; k < (near ? kIntegerWarps : h.frees); ++k) {
      const int j = near ? h.near[k] : h.free_object[k];
      if (j != kNone) distance = min(distance, s.value(j, at) + s.price_of(at));
    }
    return max(distance & -quantum, max(s.distance[i], floor));
  }

  // The least label() of the `count` rows of the queue.
  __device__ __forceinline__ int least_label(int count, int floor, bool near) const {
    s.sync();  // all have read the last
    if (s.thread() == 0) h.ahead = kUnreached;
    s.sync();
    int least = kUnreached;
    for (int q = s.thread(); q < count; q += s.threads()) {
      least = min(least, label(s.queue[q], floor, near));
    }
    least = warp_min(least);
    if (threadIdx.x % 32 == 0) atomicMin(&h.ahead, least);
    s.sync();
    return h.ahead;
  }

  // Takes the rows to postpone off the queue; roots stay. Returns how many rows are left. If
  // `whole`, none is postponed where none reaches what it looks for within the bucket: returns -1.
  __device__ __forceinline__ int run(int count, int floor, int limit, bool whole) const {
    const bool listed = h.near[0] != kUnlisted;  // read before the barriers: list_near() writes it
    bool near = false;
    int least = least_label(count, floor, near);
    if (least > limit) {
      if (!listed) list_near();
      near = true;
      least = least_label(count, floor, near);
    }
    const bool beyond = least > limit;
    if (beyond && whole) return -1;
    int place = s.thread();
    return queue_bidders_at(
        s, h, count, [&](int q) { return static_cast<int>(s.queue[q]); },
        [&](int i, bool real) {
          const bool root = real && s.distance[i] < 0;
          const bool within = beyond ? place < kMaxRows : real && max(s.distance[i], floor) < least;
          const bool stays = root || (real && within);
          place += s.threads();
          const bool attains = real && !stays && !beyond && label(i, floor, near) == least;
          const unsigned others = __ballot_sync(kWholeWarp, attains);
          const bool first = attains && rank_in(others) == 0;
          if (real && !stays && !first) s.distance[i] = kUnreached;
          return stays || first;
        },
        [](int) {});
  }
};

}  // namespace pointloss
