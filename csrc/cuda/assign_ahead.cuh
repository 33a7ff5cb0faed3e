// SPDX-License-Identifier: MIT
// Which rows of a large frontier the path search expands first (see assign_paths.cuh).
//
// Where all objects are about as good for all bidders, as for a blob far from a surface, most of
// the cloud is reached within a bucket, at one evaluation of all objects a row, though a few rows
// reach a free object. So the rows of a large frontier first look at the free objects alone: those
// whose label is not below the least that any of them offers there wait, but for a few that offer
// it. Is that beyond the bucket, they look for owned objects from which a free one is as near (one
// step of a search from the other end). Waiting costs nothing but rounds: what waits keeps its
// label and comes again as long as its label is below that of the nearest free object.
// A blob of 2048 points at 0.1 % expands 80 instead of 14336 rows (simulated), 1.75 instead of 2.3
// ms for 32 on an H200; after a step of training 1200 instead of 8000, at a third of the
// evaluations. Of no use: to lower the prices of free objects beforehand, a finer quantum; of less:
// a limit of rows a warp alone. Best-first where the free objects are far, by what a row offers
// them: a blob's fourth step takes 2.0 instead of 2.7 ms (1.4 instead of 2.1 at 1 %), but a cold
// surface 8.3 instead of 7.0, whose frontiers then are small and many.
#pragma once

#include "assign_bids.cuh"

namespace pointloss {

// A frontier of more rows than this looks ahead, if at most kMaxOpen objects are free, and is cut
// to the second number of rows if it sees nothing within the bucket.
constexpr int kLookAhead = 64, kMaxRows = 128;
constexpr int kUnreached = INT_MAX;
constexpr int kUnlisted = INT_MIN;

template <class Id, bool kSquared>
struct LookAhead {
  using Scan = Scanner<Id, kSquared>;
  static constexpr int kNone = Scan::kNone;

  const SolverState<Id>& s;
  SolverShared& h;
  int quantum;  // of distances

  // Lists the free objects of group g, by one warp.
  __device__ __forceinline__ void list_free(int g) const {
    const int j = g * 32 + threadIdx.x % 32;
    const bool free = j < s.N && s.owner[j] == kNone;
    const unsigned frees = __ballot_sync(kWholeWarp, free);
    if (frees == 0) return;
    const int at = append_place(&h.opens, frees);
    if (free && at < kMaxOpen) h.open[at] = j;
  }

  // Lists objects whose owners would as soon have a free one, one from the bidders of each warp.
  __device__ __forceinline__ void list_near() const {
    const int warp = threadIdx.x / 32;
    int found = kNone;
    for (int i0 = warp * 32; i0 < s.N && found == kNone; i0 += kSolverThreads) {
      const int i = i0 + static_cast<int>(threadIdx.x) % 32;
      const int j = i < s.N ? static_cast<int>(s.partner[i]) : kNone;
      bool near = false;
      if (j != kNone) {
        const float4 at = s.bidder[i];
        const int most = Scan::value(s.object[j], at) + quantum;
        for (int k = 0; k < h.opens; ++k) near |= Scan::value(s.object[h.open[k]], at) < most;
      }
      const unsigned all = __ballot_sync(kWholeWarp, near);
      if (all != 0) found = __shfl_sync(kWholeWarp, j, __ffs(all) - 1);
    }
    if (threadIdx.x % 32 == 0) h.near[warp] = found;
    __syncthreads();
  }

  // Least label that row i offers to a free object, or to one listed by list_near().
  __device__ __forceinline__ int label(int i, int floor, bool near) const {
    const float4 at = s.bidder[i];
    int distance = kUnreached;
    for (int k = 0; k < (near ? kSolverWarps : h.opens); ++k) {
      const int j = near ? h.near[k] : h.open[k];
      if (j != kNone) distance = min(distance, Scan::value(s.object[j], at) + price_of(at));
    }
    return max(distance & -quantum, max(s.reach[i], floor));
  }

  // The least label() of the `count` rows of the queue.
  __device__ __forceinline__ int least_label(int count, int floor, bool near) const {
    __syncthreads();  // all have read the last
    if (threadIdx.x == 0) h.ahead = kUnreached;
    __syncthreads();
    int least = kUnreached;
    for (int q = threadIdx.x; q < count; q += kSolverThreads) {
      least = min(least, label(s.queue[q], floor, near));
    }
    least = warp_min(least);
    if (threadIdx.x % 32 == 0) atomicMin(&h.ahead, least);
    __syncthreads();
    return h.ahead;
  }

  // Takes off the queue what is to wait; roots never wait. Returns how many rows are left.
  __device__ __forceinline__ int run(int count, int floor, int limit) const {
    const bool listed = h.near[0] != kUnlisted;  // read before the barriers: list_near() writes it
    bool near = false;
    int least = least_label(count, floor, near);
    if (least > limit) {
      if (!listed) list_near();
      near = true;
      least = least_label(count, floor, near);
    }
    const bool beyond = least > limit;
    int place = threadIdx.x;
    return queue_bidders_at(
        s, h, count, [&](int q) { return static_cast<int>(s.queue[q]); },
        [&](int i, bool real) {
          const bool root = real && s.reach[i] < 0;
          const bool within = beyond ? place < kMaxRows : real && max(s.reach[i], floor) < least;
          const bool stays = root || (real && within);
          place += kSolverThreads;
          const bool offers = real && !stays && !beyond && label(i, floor, near) == least;
          const unsigned others = __ballot_sync(kWholeWarp, offers);
          const bool first = offers && rank_in(others) == 0;
          if (real && !stays && !first) s.reach[i] = kUnreached;
          return stays || first;
        },
        [](int) {});
  }
};

}  // namespace pointloss
