// SPDX-License-Identifier: MIT
// The path search of the integer assignment solver (see assign_solver.cuh).
//
// Shortest augmenting paths from all bidders that have no object at once: each is the root of a
// tree, an object's label is its distance from the nearest root in the eps-reduced costs, and the
// bidder that owns a labelled object is a row that offers labels to all objects. Labels are settled
// bucket by bucket, and within one no further than the least label of a free object, which a large
// frontier looks for ahead (assign_ahead.cuh). When a tree has reached one, the root is served
// along the path, the prices of the tree's objects rise by what their labels lack to that, and the
// other trees, whose labels stay right, offer theirs to the objects that have become free of a tree
// (grafting; after A. Azad, A. Buluc and A. Pothen, "Computing maximum cardinality matchings in
// parallel on bipartite graphs via tree-grafting", IEEE TPDS 28 (2017)). So all roots are served in
// one sweep of growing labels, 2 to 4 times fewer rounds than one search a root.
// Distances are rounded down to multiples of a quantum of a few eps, at the price of as much slack
// on the edges of the served paths: rows are then expanded 4 instead of 30 times each.
// Deterministic: of equal labels the first stays, so all that takes is a queue in a fixed order.
// Map: in a round every warp lowers the labels of its own groups of objects, without atomics, then
// selects the next frontier among their owners. One barrier after each. A round waits for the warp
// whose group most rows reach. After a root was served most rows have nothing new to offer, but to
// ask only for objects without a label, or a lane a row for each of those, is no faster. As fast,
// with the groups shared out evenly: 64-bit minima. Slower: tests of two groups at a time, and to
// select only in groups with new labels.
#pragma once

#include "assign_ahead.cuh"

namespace pointloss {

// A bucket whose first frontier is below the one doubles the width of the next, one above the other
// halves it. Later frontiers say nothing: a bucket ends with a tail of few rows.
constexpr int kNarrowFrontier = 8;
constexpr int kWideFrontier = 32;
// At least 1. Labels further than this many quanta beyond the nearest free object are left out:
// they are needed only after a root is served, when all rows offer theirs again.
constexpr int kAhead = 4;
// Below its distance a label holds the bidder that it is from.
constexpr unsigned long long kNoLabel = static_cast<unsigned long long>(kUnreached) << 32;
// In place of the free object that a root was found, with its label.
constexpr unsigned long long kUnserved = ~0ull, kServed = kUnserved - 1;

template <class Id, bool kSquared>
struct PathSearch {
  using Scan = Scanner<Id, kSquared>;
  static constexpr int kNone = Scan::kNone;

  const SolverState<Id>& s;
  SolverShared& h;
  int eps, quantum;
  bool deterministic;

  __device__ __forceinline__ static int distance_of(unsigned long long label) {
    return static_cast<int>(label >> 32);
  }
  __device__ __forceinline__ static int bidder_of(unsigned long long label) {
    return static_cast<int>(label & 0xffffffffu);
  }

  // Least labels of at most `cutoff` for the objects, from the rows of the queue. A warp keeps to
  // its own groups: it finds the rows that matter to a group by a lane each, then their labels for
  // its objects by a lane each. Of equal labels the first stays.
  __device__ __forceinline__ void offer(int count, int floor, int cutoff) {
    const int lane = threadIdx.x % 32;
    for (int q = lane; q - lane < count; q += 32) {
      const bool real = q < count;
      const int i = real ? s.queue[q] : 0;
      const float4 at = s.bidder[i];
      const int reach = max(s.reach[i], floor);
      for (int g = threadIdx.x / 32; g < s.G; g += kSolverWarps) {
        const int least = max(rounded(Scan::group_bound(s, g, at) + price_of(at)), reach);
        const int worst = min(s.box_label[g], cutoff + 1);
        const unsigned rows = __ballot_sync(kWholeWarp, real && least < worst);
        if (rows != 0) offer_group(g, i, least, rows, floor, cutoff);
      }
    }
  }

  // To group g from those rows of the lanes whose bits are set, each with at least `least`.
  __device__ __forceinline__ void offer_group(int g, int i, int least, unsigned rows, int floor,
                                              int cutoff) {
    const int j = g * 32 + threadIdx.x % 32;
    const float4 o = s.object[j];
    int lowest = min(distance_of(s.word[j]), cutoff + 1), from = kNone;
    const auto label_from = [&](int row) {  // yet to be rounded down
      const float4 at = s.bidder[row];
      return max(Scan::value(o, at) + price_of(at), max(s.reach[row], floor));
    };
    const auto take = [&](int label, int row) {
      from = label < lowest ? row : from;
      lowest = min(label, lowest);
    };
    const auto next_or = [&](int last) {
      if (rows == 0) return last;
      const int row = __shfl_sync(kWholeWarp, i, __ffs(rows) - 1);
      rows &= rows - 1;
      return row;
    };
    for (int turn = 1;; ++turn) {  // four at a time, to hide their latency
      const int a = next_or(0), b = next_or(a);
      const int at_a = label_from(a), at_b = label_from(b);
      if (rows == 0) {
        take(at_a, a), take(at_b, b);
        break;
      }
      const int c = next_or(0), d = next_or(c);
      const int at_c = label_from(c), at_d = label_from(d);
      take(at_a, a), take(at_b, b), take(at_c, c), take(at_d, d);
      if (rows != 0 && turn % 2 == 0) {
        const int worst = warp_max(rounded(lowest));
        rows &= __ballot_sync(kWholeWarp, least < worst);
      }
      if (rows == 0) break;
    }
    if (from != kNone) {
      s.word[j] =
          static_cast<unsigned long long>(rounded(lowest)) << 32 | static_cast<unsigned>(from);
      if (s.owner[j] == kNone) atomicMin(&h.free, rounded(lowest));
    }
    worst_label(g, distance_of(s.word[j]));
  }

  // Lowers h.nearest to the least label that the rows of the queue offer to a free object.
  __device__ __forceinline__ void scout(int count, int floor) {
    const int lane = threadIdx.x % 32;
    int nearest = kUnreached;
    for (int g = threadIdx.x / 32; g < s.G; g += kSolverWarps) {
      const int own = g * 32 + lane;
      unsigned frees = __ballot_sync(kWholeWarp, own < s.N && s.owner[own] == kNone);
      for (; frees != 0; frees &= frees - 1) {
        const float4 o = s.object[g * 32 + __ffs(frees) - 1];
        for (int q = lane; q < count; q += 32) {
          const int i = s.queue[q];
          const float4 at = s.bidder[i];
          const int distance = rounded(Scan::value(o, at) + price_of(at));
          nearest = min(nearest, max(max(distance, s.reach[i]), floor));
        }
      }
    }
    nearest = warp_min(nearest);
    if (lane == 0 && nearest < kUnreached) atomicMin(&h.nearest, nearest);
  }

  __device__ __forceinline__ int rounded(int distance) const { return distance & -quantum; }

  __device__ __forceinline__ void worst_label(int g, int distance) const {
    const int worst = warp_max(distance);
    __syncwarp();  // all lanes have read the last
    if (threadIdx.x % 32 == 0) s.box_label[g] = worst;
    __syncwarp();
  }

  // Appends the bidders of the lanes with `in` to the queue; deterministic: to the part of tree[]
  // that belongs to the objects of this warp, which holds `own` by now.
  __device__ __forceinline__ void push(bool in, int bidder, int* count, int& own) const {
    const unsigned mask = __ballot_sync(kWholeWarp, in);
    if (mask == 0) return;
    const int at = deterministic ? part() + own + rank_in(mask) : append_place(count, mask);
    own += __popc(mask);
    if (in) (deterministic ? s.tree : s.queue)[at] = static_cast<Id>(bidder);
  }
  __device__ __forceinline__ int part() const {
    const int warp = threadIdx.x / 32;
    return 32 * (warp * (s.G / kSolverWarps) + min(warp, s.G % kSolverWarps));
  }

  // Moves what push() has left in tree[] to the queue, by warps; returns how many there are.
  __device__ __forceinline__ int gather() const {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int before = 0, all = 0;
    for (int w = 0; w < kSolverWarps; ++w) {
      const int count = h.base[w];
      before += w < warp ? count : 0;
      all += count;
    }
    for (int k = lane; k < h.base[warp]; k += 32) s.queue[before + k] = s.tree[part() + k];
    __syncthreads();
    return all;
  }

  // Makes rows of the owners of objects with a new label of at most `limit`. Counters of round r:
  // rows, least label of the other owned objects.
  __device__ __forceinline__ void select(int r, int limit) {
    const int lane = threadIdx.x % 32;
    int next = kUnreached, own = 0;
    for (int g = threadIdx.x / 32; g < s.G; g += kSolverWarps) {
      const int j = g * 32 + lane;
      const int distance = distance_of(s.word[j]);
      const int i = s.owner[j];
      const bool pending = i != kNone && distance < s.reach[i];
      const bool row = pending && distance <= limit;
      if (pending && !row) next = min(next, distance);
      if (row) {
        s.bidder[i].w = __int_as_float(distance - Scan::value(s.object[j], s.bidder[i]));
        s.reach[i] = distance;
      }
      push(row, i, h.count + r % 3, own);
    }
    if (lane == 0) h.base[threadIdx.x / 32] = own;
    next = warp_min(next);
    if (lane == 0 && next < kUnreached) atomicMin(h.next_label + r % 3, next);
  }

  __device__ __forceinline__ void reset_counters(int r) {
    if (threadIdx.x != 0) return;
    h.count[r % 3] = 0;
    h.next_label[r % 3] = kUnreached;
  }

  __device__ __forceinline__ LookAhead<Id, kSquared> ahead() const { return {s, h, quantum}; }

  // Nothing is known of the free objects.
  __device__ __forceinline__ void forget_free() const {
    if (threadIdx.x != 0) return;
    h.nearest = kPriceLimit, h.free = kUnreached;
    h.opens = 0, h.near[0] = kUnlisted;
  }

  // Roots the trees at the first `count` bidders of the queue.
  __device__ __forceinline__ void plant(int count) {
    for (int i = threadIdx.x; i < s.N; i += kSolverThreads) s.reach[i] = kUnreached;
    for (int g = threadIdx.x / 32; g < s.G; g += kSolverWarps) {
      const int j = g * 32 + threadIdx.x % 32;
      s.word[j] = j < s.N ? kNoLabel : 0;  // nothing improves what pads the last group
      worst_label(g, distance_of(s.word[j]));
    }
    if (threadIdx.x == 0) h.served = 0;
    forget_free();
    __syncthreads();
    for (int g = threadIdx.x / 32; g < s.G; g += kSolverWarps) ahead().list_free(g);
    for (int q = threadIdx.x / 32; q < count; q += kSolverWarps) {
      const int i = s.queue[q];
      const Top top = Scan::best_two(s, i, kSlackEps * eps);
      if (threadIdx.x % 32 != 0) continue;
      s.bidder[i].w = __int_as_float(-top.best);
      s.reach[i] = ~q;  // below every label, and tells the root
      h.found[q] = kUnserved;
    }
  }

  // Root of the tree of a labelled object, as its place in found[].
  __device__ __forceinline__ int root_of(int j) {
    for (int step = 0; step <= s.N; ++step) {
      const int i = bidder_of(s.word[j]);
      j = s.partner[i];
      if (j == kNone) return ~s.reach[i];
    }
    h.overflow = 1;
    return 0;
  }

  // Serves every root whose tree has a free object at `limit`, the least label of all free objects,
  // and makes rows of all that is left in the trees of the others: returns how many. Labels up to
  // `limit` are final.
  __device__ __forceinline__ int serve(int count, int limit) {
    for (int j = threadIdx.x; j < s.N; j += kSolverThreads) {
      const int distance = distance_of(s.word[j]);
      if (distance == kUnreached) continue;
      const int root = root_of(j);
      s.tree[j] = static_cast<Id>(root);
      if (s.owner[j] == kNone && distance <= limit) {
        atomicMin(h.found + root, Bids<Id, kSquared>::word_of(distance, j));
      }
    }
    __syncthreads();
    for (int g = threadIdx.x / 32; g < s.G; g += kSolverWarps) mark_served(g, limit);
    forget_free();
    __syncthreads();
    if (threadIdx.x < count) {
      const auto found = h.found[threadIdx.x];
      if (found < kServed) {
        h.found[threadIdx.x] = kServed;
        augment(static_cast<int>(found & 0xffffffffu));
      }
    }
    __syncthreads();
    for (int g = threadIdx.x / 32; g < s.G; g += kSolverWarps) {
      const int j = g * 32 + threadIdx.x % 32;
      const bool labelled = j < s.N && distance_of(s.word[j]) < kUnreached;
      const bool dropped = labelled && s.tree[j] == static_cast<Id>(kNone);
      if (dropped) s.word[j] = kNoLabel;
      if (labelled && !dropped && s.owner[j] == kNone) atomicMin(&h.free, distance_of(s.word[j]));
      ahead().list_free(g);
      worst_label(g, distance_of(s.word[j]));
    }
    return queue_bidders(s, h, [&](int i) { return s.reach[i] != kUnreached; }, [](int) {});
  }

  // Raises the prices of the objects of served roots, and takes their owners out of the trees.
  __device__ __forceinline__ void mark_served(int g, int limit) {
    const int j = g * 32 + threadIdx.x % 32;
    int price = price_of(s.object[j]);
    if (j < s.N && distance_of(s.word[j]) < kUnreached && h.found[s.tree[j]] < kServed) {
      price += max(0, limit - distance_of(s.word[j]));
      s.object[j].w = __int_as_float(price);
      s.tree[j] = static_cast<Id>(kNone);
      if (s.owner[j] != kNone) s.reach[s.owner[j]] = kUnreached;
      if (price > kPriceLimit) h.overflow = 1;
    }
    const int least = warp_min(price);
    if (threadIdx.x % 32 == 0) s.box_price[g] = least;
  }

  // Gives the free object j to the row that labelled it, that row's object to the next, and so on.
  __device__ __forceinline__ void augment(int j) {
    for (int step = 0; step <= s.N && j != kNone; ++step) {
      const int i = bidder_of(s.word[j]), next = s.partner[i];
      s.partner[i] = static_cast<Id>(j);
      s.owner[j] = static_cast<Id>(i);
      s.reach[i] = kUnreached;  // of the root
      j = next;
    }
    atomicAdd(&h.served, 1);
  }

  // Serves the first `count` bidders of the queue, none of which has an object. Returns the rounds
  // that it took; fewer are served if that reaches `round_limit`.
  __device__ __forceinline__ int64_t run(int count, int64_t round_limit) {
    int limit = 0, floor = 0, width = quantum, rows = count;
    int64_t rounds = 0;
    plant(count);
    reset_counters(0);
    __syncthreads();
    scout(rows, floor);
    __syncthreads();
    int cutoff = h.nearest + kAhead * quantum;
    bool opened = false;  // the bucket in this round
    for (int r = 0; rounds < round_limit && h.overflow == 0; ++r) {
      if (rows > kLookAhead && h.opens <= kMaxOpen) rows = ahead().run(rows, floor, limit);
      if (rows > 0) {
        ++rounds;
        offer(rows, floor, cutoff);
        __syncthreads();
      }
      const int free = h.free;  // read before the barrier: the next offer lowers it
      select(r, free <= floor ? -1 : min(limit, free - 1));
      reset_counters(r + 1);
      __syncthreads();
      rows = deterministic ? gather() : h.count[r % 3];
      const int next = h.next_label[r % 3];
      if (free < kPriceLimit) cutoff = min(cutoff, free + kAhead * quantum);
      if (rows > 0) {
        if (opened && rows < kNarrowFrontier) width = min(2 * width, kRaiseLimit);
        if (opened && rows > kWideFrontier) width = max(width / 2, quantum);
        opened = false;
      } else if (free <= limit) {
        rows = serve(count, free);
        floor = free;
        if (h.served == count) break;
        scout(rows, floor);
        __syncthreads();
        cutoff = h.nearest + kAhead * quantum;
      } else {
        if (min(next, free) >= kPriceLimit) {  // too far for these prices: another solver's case
          if (threadIdx.x == 0) h.overflow = 1;
          break;
        }
        limit = min(min(next, free) + width, cutoff);
        opened = true;
      }
    }
    __syncthreads();
    return rounds;
  }
};

}  // namespace pointloss
