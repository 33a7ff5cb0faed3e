// SPDX-License-Identifier: MIT
// Shortest augmenting paths of the integer solver for equal sizes (equal.cuh).
//
// The search starts from all bidders that have no object at once. Each is the root of a tree; the
// label of an object is its distance from the nearest root in the eps-reduced costs; the bidder
// that owns a labelled object is a row that offers labels to all objects. Labels are settled bucket
// by bucket, but never beyond the least label of a free object. When a tree has reached a free
// object, its root is matched along the path, and the prices of the tree's objects rise by the
// difference between that label and theirs. The other trees keep their labels and offer theirs to
// the objects that have left a tree (grafting; after A. Azad, A. Buluc and A. Pothen, "Computing
// maximum cardinality matchings in parallel on bipartite graphs via tree-grafting", IEEE TPDS 28
// (2017)): one sweep of growing labels matches all roots. Distances are rounded down to multiples
// of a quantum of a few eps, at the price of as much slack on the edges of the paths.
// Dummies, which make up for missing bidders, are all alike: number K, one row, stands for all. It
// is reached by the first label of an object that a dummy has, and it is a root as often as dummies
// lack an object.
// Deterministic: of equal labels the first stays, so only the queue must have a fixed order.
// Map: in a round a warp lowers the labels of whole groups of objects, without atomics, then
// selects the next frontier among their owners. One barrier after each. One block of a cluster
// does; in rounds of many rows the others help it to lower labels.
#pragma once

#include "look_ahead.cuh"

namespace pointloss {

constexpr unsigned long long kNoLabel = static_cast<unsigned long long>(kUnreached) << 32;
// In place of the free object that a root has found, with its label.
constexpr unsigned long long kUnmatched = ~0ull, kMatched = kUnmatched - 1;

template <class Id, Cost kCost, class Blocks>
struct PathSearch {
  using State = EqualState<Id, kCost, Blocks>;
  static constexpr int kNone = State::kNone;
  static constexpr bool kClusters = !State::kTeam && !State::kWide;

  const State& s;
  IntegerShared& h;
  int eps, quantum;
  bool whole;  // a large frontier is expanded at once where no free object is near

  __device__ __forceinline__ static int distance_of(unsigned long long label) {
    return static_cast<int>(label >> 32);
  }
  __device__ __forceinline__ static int bidder_of(unsigned long long label) {
    return static_cast<int>(label & 0xffffffffu);
  }

  // Least labels of at most `cutoff` for the objects, from the rows of the queue, in round r; of
  // every group in `parts`, beginning with that of this block's rank. One warp has a group: it
  // finds the rows that matter to it by a lane each, then their labels for its objects by a lane
  // each. Of equal labels the first stays.
  __device__ __forceinline__ void offer(int r, int count, int floor, int cutoff, int parts) {
    const int lane = threadIdx.x % 32;
    for (int k = s.warp(), g = 0; (g = k * parts + s.cluster.rank) < s.G; k = claim(r, k)) {
      for (int q = lane; q - lane < count; q += 32) {
        const bool real = q < count;
        const int i = real ? s.queue[q] : 0;
        const float4 at = s.bidder[i];
        const int own = max(s.distance[i], floor);
        const int least = max(rounded(group_bound(s, g, at) + s.price_of(at)), own);
        const int worst = min(s.box_label[g], cutoff + 1);
        const unsigned rows = __ballot_sync(kWholeWarp, real && least < worst);
        if (rows != 0) offer_group(g, i, least, rows, floor, cutoff);
      }
    }
  }

  // The number of the next group of a warp that has done number k in round r: who is done early
  // takes more. Of a team, a warp has about one.
  __device__ __forceinline__ int claim(int r, int k) const {
    if (State::kTeam) return k + s.warps();
    int next = 0;
    if (threadIdx.x % 32 == 0) next = atomicAdd(h.claimed + r % 3, 1);
    return s.warps() + __shfl_sync(kWholeWarp, next, 0);
  }

  // To group g from those rows of the lanes whose bits are set, each with at least `least`.
  __device__ __forceinline__ void offer_group(int g, int i, int least, unsigned rows, int floor,
                                              int cutoff) {
    const int j = g * 32 + threadIdx.x % 32;
    const float4 o = s.object[j];
    int lowest = min(distance_of(s.label[j]), cutoff + 1), from = kNone;
    const auto label_from = [&](int row) {  // yet to be rounded down
      const float4 at = s.bidder[row];
      return max(s.value(o, at) + s.price_of(at), max(s.distance[row], floor));
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
      s.label[j] = pack(rounded(lowest), static_cast<unsigned>(from));
      if (s.owner[j] == kNone) atomicMin(&h.free, rounded(lowest));
    }
    set_worst_label(g, distance_of(s.label[j]));
  }

  // Of a round of the first block that all share: lets the others begin, with this one's offer().
  __device__ __forceinline__ void share(int count, int floor, int cutoff) const {
    if (s.thread() == 0) {
      s.exchange->rows = count, s.exchange->floor = floor;
      s.exchange->cutoff = cutoff, s.exchange->quantum = quantum;
    }
    s.cluster.sync();
  }
  // Waits for the others, who have left their labels here.
  __device__ __forceinline__ void collect() const {
    s.cluster.sync();
    if (s.thread() > 0 && s.thread() < s.cluster.size) {
      atomicMin(&h.free, *in_block(&h.free, s.thread()));
    }
  }

  // What the other blocks do until the first calls share() without rows.
  __device__ __forceinline__ void help() {
    if constexpr (kClusters) {
      for (;;) {
        s.cluster.sync();
        const int count = load_fresh(&s.exchange->rows);
        if (count == 0) return;
        quantum = load_fresh(&s.exchange->quantum);
        if (s.thread() == 0) h.free = kUnreached, h.claimed[0] = 0;
        take_round(count);
        s.sync();
        offer(0, count, load_fresh(&s.exchange->floor), load_fresh(&s.exchange->cutoff),
              s.cluster.size);
        s.sync();
        for (int g = own_group(0); g < s.G; g = own_group(g)) {
          const int j = g * 32 + threadIdx.x % 32;
          *there(s.label + j) = s.label[j];
          if (threadIdx.x % 32 == 0) *there(s.box_label + g) = s.box_label[g];
        }
        s.cluster.sync();
      }
    }
  }

  template <class T>
  __device__ __forceinline__ static T* there(T* own) {
    return const_cast<T*>(in_block(own, 0));
  }

  // The next group that this warp moves from and to the first block.
  __device__ __forceinline__ int own_group(int g) const {
    return g + (g == 0 ? s.warp() * s.cluster.size + s.cluster.rank : s.warps() * s.cluster.size);
  }

  // Reads the rows of the first block, and the objects of this one's groups.
  __device__ __forceinline__ void take_round(int count) const {
    for (int q = s.thread(); q < count; q += s.threads()) {
      const int i = *there(s.queue + q);
      s.queue[q] = static_cast<Id>(i);
      s.bidder[i].w = there(s.bidder + i)->w;
      s.distance[i] = *there(s.distance + i);
    }
    for (int g = own_group(0); g < s.G; g = own_group(g)) {
      const int j = g * 32 + threadIdx.x % 32;
      s.label[j] = *there(s.label + j);
      s.owner[j] = *there(s.owner + j);
      s.object[j].w = there(s.object + j)->w;
      if (threadIdx.x % 32 == 0) {
        s.box_label[g] = *there(s.box_label + g);
        s.box_price[g] = *there(s.box_price + g);
      }
    }
  }

  // The least label that the rows of the queue offer to a free object.
  __device__ __forceinline__ int nearest_free(int count, int floor) {
    if (h.frees <= kMaxFree) {
      return min(ahead().least_label(count, floor, false), kPriceLimit);
    }
    const int lane = threadIdx.x % 32;
    int nearest = kUnreached;
    for (int g = s.warp(); g < s.G; g += s.warps()) {
      const int own = g * 32 + lane;
      unsigned frees = __ballot_sync(kWholeWarp, own < s.N && s.owner[own] == kNone);
      for (; frees != 0; frees &= frees - 1) {
        const float4 o = s.object[g * 32 + __ffs(frees) - 1];
        for (int q = lane; q < count; q += 32) {
          const int i = s.queue[q];
          const float4 at = s.bidder[i];
          const int distance = rounded(s.value(o, at) + s.price_of(at));
          nearest = min(nearest, max(max(distance, s.distance[i]), floor));
        }
      }
    }
    nearest = warp_min(nearest);
    if (lane == 0 && nearest < kUnreached) atomicMin(&h.nearest, nearest);
    s.sync();
    return h.nearest;
  }

  __device__ __forceinline__ int rounded(int distance) const { return distance & -quantum; }

  __device__ __forceinline__ void set_worst_label(int g, int distance) const {
    const int worst = warp_max(distance);
    __syncwarp();  // all lanes have read the last
    if (threadIdx.x % 32 == 0) s.box_label[g] = worst;
    __syncwarp();
  }

  // Appends the bidders of the lanes with `in`, owners of objects of group g, to the queue;
  // deterministic: puts them at the group's place in selected[].
  __device__ __forceinline__ void push(bool in, int bidder, int g, int* count) const {
    const unsigned mask = __ballot_sync(kWholeWarp, in);
    const bool fixed = s.in->deterministic;
    if (fixed && threadIdx.x % 32 == 0) s.base[g] = __popc(mask);
    if (mask == 0) return;
    const int next = append_place(count, mask), at = fixed ? 32 * g + rank_in(mask) : next;
    if (in) (fixed ? s.selected : s.queue)[at] = static_cast<Id>(bidder);
  }

  // Moves what push() has left in selected[] to the queue, by groups.
  __device__ __forceinline__ void gather() const {
    const int lane = threadIdx.x % 32;
    for (int g = s.warp(), before = 0, last = 0; g < s.G; last = g, g += s.warps()) {
      int more = 0;
      for (int k = last + lane; k < g; k += 32) more += s.base[k];
      before += warp_sum(more);
      if (lane < s.base[g]) s.queue[before + lane] = s.selected[32 * g + lane];
    }
    s.sync();
  }

  // Makes rows of the owners of objects with a new label of at most `limit`. Counters of round r:
  // rows, least label of the other owned objects.
  __device__ __forceinline__ void select(int r, int limit) {
    const int lane = threadIdx.x % 32;
    int next = kUnreached;
    for (int g = s.warp(); g < s.G; g += s.warps()) {
      const int j = g * 32 + lane;
      const int distance = distance_of(s.label[j]);
      const int i = s.owner[j];
      const bool pending = i != kNone && distance < s.distance[i] && bidder_of(s.label[j]) != i;
      bool row = pending && distance <= limit;
      if (pending && !row) next = min(next, distance);
      if (row && i == s.in->K) {
        atomicMin(h.entry + r % 3, pack(distance, static_cast<unsigned>(j)));
        row = false;
      }
      if (row) {
        s.bidder[i].w = __int_as_float(distance - s.value(j, s.bidder[i]));
        s.distance[i] = distance;
      }
      push(row, i, g, h.count + r % 3);
    }
    next = warp_min(next);
    if (lane == 0 && next < kUnreached) atomicMin(h.next_label + r % 3, next);
  }

  // Makes a row of the dummies if select() has found one of their objects; returns how many rows
  // there are.
  __device__ __forceinline__ int push_dummies(int r, int rows) const {
    const auto entry = h.entry[r % 3];
    if (entry == kUnmatched) return rows;
    if (s.thread() == 0) {
      const int i = s.in->K, j = static_cast<int>(entry & 0xffffffffu);
      s.bidder[i].w = __int_as_float(distance_of(entry) - s.price(j));
      s.distance[i] = distance_of(entry);
      s.partner[i] = static_cast<Id>(j);
      s.queue[rows] = static_cast<Id>(i);
    }
    s.sync();
    return rows + 1;
  }

  __device__ __forceinline__ void reset_counters(int r) {
    if (s.thread() != 0) return;
    h.entry[r % 3] = kUnmatched;
    h.count[r % 3] = h.claimed[r % 3] = 0;
    h.next_label[r % 3] = kUnreached;
  }

  __device__ __forceinline__ LookAhead<Id, kCost, Blocks> ahead() const { return {s, h, quantum}; }

  // Nothing is known of the free objects.
  __device__ __forceinline__ void forget_free() const {
    if (s.thread() != 0) return;
    h.nearest = kPriceLimit, h.free = kUnreached;
    h.frees = 0, h.near[0] = kUnlisted;
  }

  // Roots the trees at the first `count` bidders of the queue.
  __device__ __forceinline__ void plant(int count) {
    for (int i = s.thread(); i < s.N; i += s.threads()) s.distance[i] = kUnreached;
    for (int g = s.warp(); g < s.G; g += s.warps()) {
      const int j = g * 32 + threadIdx.x % 32;
      s.label[j] = j < s.N ? kNoLabel : 0;  // nothing improves what pads the last group
      set_worst_label(g, distance_of(s.label[j]));
    }
    if (s.thread() == 0) {
      h.matched = 0;
      if (s.N > s.in->K) s.partner[s.in->K] = static_cast<Id>(kNone);
    }
    forget_free();
    s.sync();
    for (int g = s.warp(); g < s.G; g += s.warps()) ahead().list_free(g);
    for (int q = s.warp(); q < count; q += s.warps()) {
      const int i = s.queue[q];
      const BestTwo<int> top = best_two(s, i, kSlackEps * eps);
      if (threadIdx.x % 32 != 0) continue;
      s.bidder[i].w = __int_as_float(-top.best);
      s.distance[i] = ~q;  // below every label, and names the root
      h.found[q] = kUnmatched;
    }
  }

  // Root of the tree of a labelled object, as its place in found[].
  __device__ __forceinline__ int root_of(int j) {
    for (int step = 0; step <= s.N; ++step) {
      const int i = bidder_of(s.label[j]);
      j = s.partner[i];
      if (j == kNone) return ~s.distance[i];
    }
    h.overflow = 1;
    return 0;
  }

  // Matches every root whose tree has a free object at `limit`, the least label of all free
  // objects, and makes rows of all that is left in the trees of the others: returns how many.
  // Labels up to `limit` are final.
  __device__ __forceinline__ int match(int count, int limit) {
    for (int j = s.thread(); j < s.N; j += s.threads()) {
      const int distance = distance_of(s.label[j]);
      if (distance == kUnreached) continue;
      const int root = root_of(j);
      s.root[j] = static_cast<Id>(root);
      if (s.owner[j] == kNone && distance <= limit) {
        atomicMin(h.found + root, pack(distance, static_cast<unsigned>(j)));
      }
    }
    s.sync();
    for (int g = s.warp(); g < s.G; g += s.warps()) leave_tree(g, limit);
    forget_free();
    s.sync();
    if (s.thread() < count) {
      const auto found = h.found[s.thread()];
      if (found < kMatched) {
        h.found[s.thread()] = kMatched;
        augment(s.thread(), static_cast<int>(found & 0xffffffffu));
      }
    }
    s.sync();
    for (int g = s.warp(); g < s.G; g += s.warps()) {
      const int j = g * 32 + threadIdx.x % 32;
      const bool labelled = j < s.N && distance_of(s.label[j]) < kUnreached;
      const bool left = labelled && s.root[j] == static_cast<Id>(kNone);
      if (left) s.label[j] = kNoLabel;
      if (labelled && !left && s.owner[j] == kNone) atomicMin(&h.free, distance_of(s.label[j]));
      ahead().list_free(g);
      set_worst_label(g, distance_of(s.label[j]));
    }
    return queue_bidders(
        s, h, min(s.in->K + 1, s.N), [&](int i) { return s.distance[i] != kUnreached; },
        [](int) {});
  }

  // Raises the prices of the objects in trees of matched roots, which leave those trees, as do
  // their owners.
  __device__ __forceinline__ void leave_tree(int g, int limit) {
    const int j = g * 32 + threadIdx.x % 32;
    if (j < s.N && distance_of(s.label[j]) < kUnreached && h.found[s.root[j]] < kMatched) {
      const int price = s.price(j) + max(0, limit - distance_of(s.label[j]));
      s.set_price(j, price);
      s.root[j] = static_cast<Id>(kNone);
      const int i = s.owner[j];
      if (i != kNone && s.partner[i] == static_cast<Id>(j)) s.distance[i] = kUnreached;
      if (price > kPriceLimit) h.overflow = 1;
    }
    refresh_group(s, g);
  }

  // Gives the free object j, which root `q` has found, to the row that labelled it, that row's
  // object to the next, and so on. The dummies stay a root until none of them is without an object.
  __device__ __forceinline__ void augment(int q, int j) {
    for (int step = 0; step <= s.N && j != kNone; ++step) {
      const int i = bidder_of(s.label[j]), next = s.partner[i];
      s.owner[j] = static_cast<Id>(i);
      if (i == s.in->K && next == kNone && --h.missing > 0) {
        h.found[q] = kUnmatched;
      } else {
        if (i != s.in->K) s.partner[i] = static_cast<Id>(j);
        s.distance[i] = kUnreached;
      }
      j = next;
    }
    atomicAdd(&h.matched, 1);
  }

  // Matches the first `count` bidders of the queue, none of which has an object; of them, the
  // dummies as often as h.missing says. Returns the rounds that it took; fewer are matched if that
  // reaches `round_limit`.
  //
  // floor: label of the last free object that was matched: no later label is less.
  // limit: end of the bucket whose labels are being settled, `width` beyond its start.
  // cutoff: greatest label worth keeping before the next root is matched.
  __device__ __forceinline__ int64_t run(int count, int64_t round_limit) {
    int limit = 0, floor = 0, width = quantum, rows = count;
    int64_t rounds = 0;
    plant(count);
    reset_counters(0);
    s.sync();
    const bool dummies = s.queue[count - 1] == s.in->K;  // they are the last
    const int roots = dummies ? count - 1 + h.missing : count;
    int cutoff = nearest_free(rows, floor) + kBeyondFree * quantum;
    bool opened = false, looks = true;  // the bucket in this round; ahead
    for (int r = 0; rounds < round_limit && h.overflow == 0; ++r) {
      if (looks && rows > kLookAhead && h.frees <= kMaxFree) {
        const int left = ahead().run(rows, floor, limit, whole);
        looks = left >= 0;
        if (looks) rows = left;
      }
      if (rows > 0) {
        ++rounds;
        const bool all = kClusters && s.cluster.size > 1 && rows > kSharedRows;
        if (all) share(rows, floor, cutoff);
        offer(r, rows, floor, cutoff, all ? s.cluster.size : 1);
        if constexpr (kClusters) {
          if (all) collect();
        }
        s.sync();
      }
      const int free = h.free;  // read before the barrier: the next offer lowers it
      select(r, free <= floor ? -1 : min(limit, free - 1));
      reset_counters(r + 1);
      s.sync();
      if (s.in->deterministic) gather();
      rows = push_dummies(r, h.count[r % 3]);
      const int next = h.next_label[r % 3];
      if (free < kPriceLimit) cutoff = min(cutoff, free + kBeyondFree * quantum);
      if (rows > 0) {
        if (opened && rows < kNarrowFrontier) width = min(2 * width, kRaiseLimit);
        if (opened && rows > kWideFrontier) width = max(width / 2, quantum);
        opened = false;
      } else if (free <= limit) {
        rows = match(count, free);
        floor = free;
        if (h.matched == roots) break;
        cutoff = nearest_free(rows, floor) + kBeyondFree * quantum;
        looks = true;
      } else {
        // Too far for these prices: the general solver's case.
        if (min(next, free) >= kPriceLimit) {
          if (s.thread() == 0) h.overflow = 1;
          break;
        }
        limit = min(min(next, free) + width, cutoff);
        opened = looks = true;
      }
    }
    s.sync();
    return rounds;
  }
};

}  // namespace pointloss
