// SPDX-License-Identifier: MIT
// The path search of the integer assignment solver (see assign_solver.cuh).
//
// Shortest augmenting paths from all bidders that have no object at once: each is the root of a
// tree, an object's label is its distance from the nearest root in the eps-reduced costs, and the
// bidder that owns a labelled object is a row that offers labels to all objects. Labels are settled
// bucket by bucket. When a tree has reached a free object, the root is served along the path, the
// prices of the tree's objects rise by what their labels lack to the bucket's limit, and the other
// trees, whose labels stay right, offer theirs to the objects that have become free of a tree
// (grafting; after A. Azad, A. Buluc and A. Pothen, "Computing maximum cardinality matchings in
// parallel on bipartite graphs via tree-grafting", IEEE TPDS 28 (2017)). So all roots are served in
// one sweep of growing labels, 2 to 4 times fewer rounds than one search a root.
// Distances are rounded down to multiples of a quantum of about eps, at the price of as much slack
// on the edges of the served paths: rows are then expanded 3 instead of 30 times each.
// Map: a warp owns every 32nd group of objects, so labels need no atomics; a round offers the rows
// of the frontier, then selects the next frontier, with one barrier after each.
// Deterministic: equal labels go to the least bidder of a round, and to the earlier round.
#pragma once

#include "assign_bids.cuh"

namespace pointloss {

// A bucket whose first frontier is below the one doubles the width of the next, one above the other
// halves it. Later frontiers say nothing: a bucket ends with a tail of few rows.
constexpr int kNarrowFrontier = 16;
constexpr int kWideFrontier = 64;
constexpr int kRowsAtOnce = 4;
constexpr int kUnreached = INT_MAX;
// In place of the free object that a root was found, with its label.
constexpr unsigned long long kUnserved = ~0ull, kServed = kUnserved - 1;

// Label of an object, and the label at which its owner was expanded last.
struct Label {
  int distance, expanded;
};

template <class Id, bool kSquared>
struct PathSearch {
  using Scan = Scanner<Id, kSquared>;
  static constexpr int kNone = Scan::kNone;

  const SolverState<Id>& s;
  SolverShared& h;
  int eps, quantum;

  __device__ __forceinline__ Label& label(int j) const {
    return reinterpret_cast<Label*>(s.word)[j];
  }

  // Offers the rows of the queue to the objects of this warp's groups.
  __device__ __forceinline__ void offer(int count, int floor) {
    const int lane = threadIdx.x % 32;
    for (int g = threadIdx.x / 32; g < s.G; g += kSolverWarps) {
      const int j = g * 32 + lane;
      const float4 o = s.object[j];
      int worst = s.box_label[g], distance = label(j).distance, from = kNone;
      const int before = distance;
      for (int first = 0; first < count; first += 32) {
        int least = kUnreached;
        if (first + lane < count) {
          const int i = s.queue[first + lane];
          const float4 at = s.bidder[i];
          const int bound = rounded(Scan::group_bound(s, g, at) + price_of(at));
          least = max(max(bound, s.reach[i]), floor);
        }
        unsigned rows = __ballot_sync(kWholeWarp, least < worst);
        while (rows != 0) {
          int q = 0;
#pragma unroll
          for (int k = 0; k < kRowsAtOnce; ++k) {
            if (rows != 0) q = first + __ffs(rows) - 1;  // else the same row again
            rows &= rows - 1;
            const int i = s.queue[q];
            const float4 at = s.bidder[i];
            const int d = max(max(rounded(Scan::value(o, at) + price_of(at)), s.reach[i]), floor);
            if (d < distance || (d == distance && from != kNone && i < from))
              distance = d, from = i;
          }
          worst = warp_max(distance);
          rows &= __ballot_sync(kWholeWarp, least < worst);
        }
      }
      if (distance < before) {
        label(j).distance = distance;
        s.parent[j] = static_cast<Id>(from);
      }
      if (lane == 0) s.box_label[g] = worst;
    }
  }

  __device__ __forceinline__ int rounded(int distance) const { return distance & -quantum; }

  __device__ __forceinline__ void worst_label(int g, int distance) const {
    const int worst = warp_max(distance);
    if (threadIdx.x % 32 == 0) s.box_label[g] = worst;
  }

  // Appends the bidders of the lanes with `in` to the queue.
  __device__ __forceinline__ void push(bool in, int bidder, int* count) const {
    const int lane = threadIdx.x % 32;
    const unsigned mask = __ballot_sync(kWholeWarp, in);
    if (mask == 0) return;
    int at = 0;
    if (lane == 0) at = atomicAdd(count, __popc(mask));
    at = __shfl_sync(kWholeWarp, at, 0) + __popc(mask & ((1u << lane) - 1));
    if (in) s.queue[at] = static_cast<Id>(bidder);
  }

  // Makes rows of the owners of objects with a new label of at most `limit`. Counters of round r:
  // rows, least label of the other owned objects, least of the free ones.
  __device__ __forceinline__ void select(int r, int limit) {
    const int lane = threadIdx.x % 32;
    int next = kUnreached, free = kUnreached;
    for (int g = threadIdx.x / 32; g < s.G; g += kSolverWarps) {
      const int j = g * 32 + lane;
      const Label at = label(j);
      const int i = s.owner[j];
      const bool pending = at.distance < at.expanded,
                 row = pending && i != kNone && at.distance <= limit;
      if (j < s.N && i == kNone) free = min(free, at.distance);
      if (pending && i != kNone && !row) next = min(next, at.distance);
      if (row) {
        label(j).expanded = at.distance;
        s.bidder[i].w = __int_as_float(at.distance - Scan::value(s.object[j], s.bidder[i]));
        s.reach[i] = at.distance;
      }
      push(row, i, h.count + r % 3);
    }
    next = warp_min(next), free = warp_min(free);
    if (lane == 0 && next < kUnreached) atomicMin(h.next_label + r % 3, next);
    if (lane == 0 && free < kUnreached) atomicMin(h.free_label + r % 3, free);
  }

  __device__ __forceinline__ void reset_counters(int r) {
    if (threadIdx.x != 0) return;
    h.count[r % 3] = 0;
    h.next_label[r % 3] = h.free_label[r % 3] = kUnreached;
  }

  // Roots the trees at the first `count` bidders of the queue.
  __device__ __forceinline__ void plant(int count) {
    for (int q = threadIdx.x / 32; q < count; q += kSolverWarps) {
      const int i = s.queue[q];
      const Top top = Scan::best_two(s, i, kSlackEps * eps);
      if (threadIdx.x % 32 != 0) continue;
      s.bidder[i].w = __int_as_float(-top.best);
      s.reach[i] = ~q;  // below every label, and tells the root
      h.found[q] = kUnserved;
    }
    for (int g = threadIdx.x / 32; g < s.G; g += kSolverWarps) {
      const int j = g * 32 + threadIdx.x % 32;
      // What pads the last group has a label that nothing improves, and never becomes a row.
      label(j) = {j < s.N ? kUnreached : -1, j < s.N ? kUnreached : -1};
      worst_label(g, label(j).distance);
    }
    if (threadIdx.x == 0) h.served = h.settled = 0;
  }

  // Root of the tree of bidder i, as its place in found[].
  __device__ __forceinline__ int root_of(int i) {
    for (int step = 0; step <= s.N; ++step) {
      const int j = s.partner[i];
      if (j == kNone) return ~s.reach[i];
      i = s.parent[j];
    }
    h.overflow = 1;
    return 0;
  }

  // Serves every root whose tree has a free object within `limit`, and makes rows of all that is
  // left in the trees of the others. Labels up to `limit` are final; prices need only rise to the
  // largest label that a root is served at.
  __device__ __forceinline__ void serve(int r, int count, int limit) {
    for (int j = threadIdx.x; j < s.N; j += kSolverThreads) {
      if (label(j).distance == kUnreached) continue;
      const int root = root_of(s.parent[j]);
      if (s.owner[j] == kNone && label(j).distance <= limit) {
        atomicMin(h.found + root, Bids<Id, kSquared>::word_of(label(j).distance, j));
      }
      label(j).expanded = root;  // until the next loop
    }
    __syncthreads();
    if (threadIdx.x < count) {
      const auto found = h.found[threadIdx.x];
      if (found < kServed) atomicMax(&h.settled, static_cast<int>(found >> 32));
    }
    __syncthreads();
    for (int g = threadIdx.x / 32; g < s.G; g += kSolverWarps) clear_served(g, limit);
    __syncthreads();
    if (threadIdx.x < count) {
      const auto found = h.found[threadIdx.x];
      if (found < kServed) {
        h.found[threadIdx.x] = kServed;
        augment(static_cast<int>(found & 0xffffffffu));
      }
    }
    __syncthreads();
    for (int i0 = 0; i0 < s.N; i0 += kSolverThreads) {
      const int i = i0 + static_cast<int>(threadIdx.x);
      bool row = i < s.N;
      if (row) {
        const int j = s.partner[i];
        row = j == kNone ? s.reach[i] < 0 : label(j).distance <= limit;
      }
      push(row, i, h.count + r % 3);
    }
  }

  // Takes the objects of served roots out of their trees.
  __device__ __forceinline__ void clear_served(int g, int limit) {
    const int j = g * 32 + threadIdx.x % 32;
    Label at = label(j);
    int price = price_of(s.object[j]);
    if (j < s.N && at.distance < kUnreached) {
      if (h.found[at.expanded] < kServed) {
        price += max(0, h.settled - at.distance);
        at = {kUnreached, kUnreached};
        if (price > kPriceLimit) h.overflow = 1;
        s.object[j].w = __int_as_float(price);
      } else {
        at.expanded = at.distance <= limit ? at.distance : kUnreached;
      }
      label(j) = at;
    }
    worst_label(g, at.distance);
    const int least = warp_min(price);
    if (threadIdx.x % 32 == 0) s.box_price[g] = least;
  }

  // Gives the free object j to the row that labelled it, that row's object to the next, and so on.
  __device__ __forceinline__ void augment(int j) {
    for (int step = 0; step <= s.N && j != kNone; ++step) {
      const int i = s.parent[j], next = s.partner[i];
      s.partner[i] = static_cast<Id>(j);
      s.owner[j] = static_cast<Id>(i);
      j = next;
    }
    atomicAdd(&h.served, 1);
  }

  // Serves the first `count` bidders of the queue, none of which has an object. Returns the rounds
  // that it took; fewer are served if that reaches `round_limit`.
  __device__ __forceinline__ int64_t run(int count, int64_t round_limit) {
    int limit = 0, floor = 0, width = quantum;
    int64_t rounds = 0;
    plant(count);
    reset_counters(0);
    __syncthreads();
    int rows = count;
    bool opened = false;  // the bucket in this round
    for (int r = 0; rounds < round_limit && h.overflow == 0; ++r) {
      if (rows > 0) {
        ++rounds;
        offer(rows, floor);
        __syncthreads();
      }
      select(r, limit);
      reset_counters(r + 1);
      __syncthreads();
      rows = h.count[r % 3];
      const int next = h.next_label[r % 3], free = h.free_label[r % 3];
      if (rows > 0) {
        if (opened && rows < kNarrowFrontier) width = min(2 * width, kRaiseLimit);
        if (opened && rows > kWideFrontier) width = max(width / 2, quantum);
        opened = false;
      } else if (free <= limit) {
        ++r;
        serve(r, count, limit);
        reset_counters(r + 1);
        __syncthreads();
        rows = h.count[r % 3];
        floor = h.settled;
        if (h.served == count) break;
      } else {
        if (min(next, free) >= kPriceLimit) break;
        limit = min(next, free) + width;
        opened = true;
      }
    }
    __syncthreads();
    return rounds;
  }
};

}  // namespace pointloss
