// SPDX-License-Identifier: MIT
// State and scans of the integer assignment solver (see assign_solver.cuh), of one block.
//
// A cost is a float rounded to 2^-26 of the scaled extent, prices are integers in that unit, so a
// bid always raises a price and no sum depends on an order. Objects lie along a Hilbert curve in
// groups of 32 with a bounding box and a least price each. A bidder keeps the two best objects of
// every lane from its last scan and a bound below which no other object was. Prices only rise, so
// as long as the second best of those is below the bound, both are the best of all objects.
#pragma once

#include <cuda_runtime.h>

#include <climits>
#include <cstdint>
#include <limits>

#include "assign_instructions.cuh"
#include "assign_team.cuh"
#include "warp.cuh"

namespace pointloss {

// 32 warps: the solver waits for latency, which many warps hide.
constexpr int kSolverThreads = 1024;
constexpr int kSolverWarps = kSolverThreads / 32;
// With coordinates below 1 in size, costs stay below 2^27 (2^28 squared), values below 2^31.
constexpr int kCostBits = 26;
constexpr int kFar = 1 << 30;         // price of what pads the last group
constexpr int kPriceLimit = 1 << 29;  // a price above is given up on: sums must stay below 2^31
constexpr int kRaiseLimit = 1 << 28;  // the largest cost; no bid raises a price by more
constexpr int kMaxSources = 1024;     // bidders that one path search starts from
constexpr int kMaxOpen = 32;          // free objects up to which it looks ahead
constexpr unsigned kNobody = 0xffffffffu;
// Coordinates of a bidder whom every object costs nothing: see nearest_int() and group_bound().
constexpr float kNowhere = std::numeric_limits<float>::quiet_NaN();

__device__ __forceinline__ int warp_min(int value) {
#if __CUDA_ARCH__ >= 800
  return __reduce_min_sync(kWholeWarp, value);
#else
  for (int offset = 16; offset > 0; offset /= 2) {
    value = min(value, __shfl_xor_sync(kWholeWarp, value, offset));
  }
  return value;
#endif
}
__device__ __forceinline__ int warp_max(int value) { return ~warp_min(~value); }

template <class T>
__device__ __forceinline__ T warp_sum(T value) {
  for (int offset = 16; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(kWholeWarp, value, offset);
  }
  return value;
}

// The place of this lane in a list of *count, to which the lanes of `mask` are appended.
__device__ __forceinline__ int append_place(int* count, unsigned mask) {
  int at = 0;
  if (threadIdx.x % 32 == 0) at = atomicAdd(count, __popc(mask));
  return __shfl_sync(kWholeWarp, at, 0) + rank_in(mask);
}

// A bidder's two cached objects of one lane; none: kNone.
template <class Id>
struct Pair {
  Id a, b;
};

// Counters of the block. count[] and next_label[] belong to round r % 3; the next one's are reset
// meanwhile.
struct SolverShared {
  unsigned long long value_sum, cost_sum, price_sum;  // of a pass over the rows
  int low[3], high[3];                                // bounding box, as ordered integers
  int base[kSolverWarps];
  int stop, overflow, least, worst;  // stop: few enough bidders are without an object
  int count[3], next_label[3];       // of a round of the path search
  int served;                        // roots
  int free, nearest;                 // least label of a free object; least that one is offered
  int ahead, opens;                  // least that a frontier offers to one; number of free objects
  int open[kMaxOpen];                // free objects, unless they are more
  int near[kSolverWarps];            // owned ones from which one of those is near, or none
  unsigned long long found[kMaxSources];  // label and free object to serve a root with
};

// Arrays of the block, as long as their comment says, G = groups of 32 objects.
template <class Id>
struct SolverState {
  float4 *object, *bidder;     // [32 G], [N]: coordinates; w: price, base of a row (int bits)
  unsigned long long* word;    // [2^ceil(log2 32 G)]: sort keys; price and owner; label
  int* reach;                  // [N]: slack, at first best value; label of a row
  Id *partner, *owner;         // [N], [32 G] or kNone
  Id* tree;                    // [32 G] root of a labelled object
  Id* queue;                   // [N] waiting bidders; rows to be expanded
  float* box;                  // [6, G]
  int *box_price, *box_label;  // [G] at most the least price, at least the largest label of a group
  int N, G;
  Team team;
  // In global memory, of the whole team:
  Pair<Id>* cache;  // [N, 32]
  int* bound;       // [N] no object outside the cache has a lesser value
  // [N] bidders for each group in a first pass; price and owner while they bid. A single block's
  // is `word`.
  unsigned long long* bids;
  int* slack;  // [N] what goes to `reach`, which a single block's is
  TeamBoard* board;
};

template <class Id>
__host__ __device__ inline size_t lay_out(SolverState<Id>& s, char* base) {
  size_t used = 0;
  const int64_t wide = int64_t{32} * s.G;
  int64_t words = 1;
  while (words < wide) words *= 2;
  const auto take = [&](auto*& array, int64_t count) {
    array = reinterpret_cast<std::remove_reference_t<decltype(array)>>(base + used);
    used += (static_cast<size_t>(count) * sizeof(*array) + 15) / 16 * 16;
  };
  take(s.object, wide);
  take(s.bidder, s.N);
  take(s.word, words);
  take(s.reach, s.N);
  take(s.partner, s.N);
  take(s.owner, wide);
  take(s.tree, wide);
  take(s.queue, s.N);
  take(s.box, 6 * int64_t{s.G});
  take(s.box_price, s.G);
  take(s.box_label, s.G);
  return used;
}

template <class Id>
__host__ __device__ inline SolverState<Id> solver_state(int64_t N) {
  SolverState<Id> state{};
  state.N = static_cast<int>(N);
  state.G = static_cast<int>((N + 31) / 32);
  return state;
}

template <class Id>
__host__ __device__ inline size_t solver_bytes(int64_t N) {
  SolverState<Id> state = solver_state<Id>(N);
  return lay_out(state, nullptr);
}

struct Top {
  int best, second, object;
};

__device__ __forceinline__ int price_of(const float4& o) { return __float_as_int(o.w); }

template <bool kSquared>
__device__ __forceinline__ int cost_of(float dx, float dy, float dz) {
  const float sum = fmaf(dx, dx, fmaf(dy, dy, dz * dz));
  return nearest_int(kSquared ? sum : fast_root(sum));
}

template <class Id, bool kSquared>
struct Scanner {
  using State = SolverState<Id>;
  static constexpr int kNone = static_cast<Id>(~Id{0});  // 65535, or -1

  static __device__ __forceinline__ int cost(const float4& o, const float4& p) {
    return cost_of<kSquared>(p.x - o.x, p.y - o.y, p.z - o.z);
  }
  static __device__ __forceinline__ int value(const float4& o, const float4& p) {
    return cost(o, p) + price_of(o);
  }

  // At most the value of any object of group g: two units less for what rounding may add. Of a NaN
  // and a number, fmaxf takes the number.
  static __device__ __forceinline__ int group_bound(const State& s, int g, const float4& p) {
    const float* box = s.box + g;
    const int G = s.G;
    const float dx = fmaxf(fmaxf(box[0] - p.x, p.x - box[3 * G]), 0.0f);
    const float dy = fmaxf(fmaxf(box[G] - p.y, p.y - box[4 * G]), 0.0f);
    const float dz = fmaxf(fmaxf(box[2 * G] - p.z, p.z - box[5 * G]), 0.0f);
    const float sum = fmaf(dx, dx, fmaf(dy, dy, dz * dz));
    const float cost = (kSquared ? sum : fast_root(sum)) * (1.0f - 0x1p-20f);
    return __float2int_rd(cost) - 2 + s.box_price[g];
  }

  static __device__ __forceinline__ Top warp_top(int best, int object, int second) {
    Top top;
    top.best = warp_min(best);
    const int lane = __ffs(__ballot_sync(kWholeWarp, best == top.best)) - 1;
    top.object = __shfl_sync(kWholeWarp, object, lane);
    top.second = warp_min(static_cast<int>(threadIdx.x % 32) == lane ? second : best);
    return top;
  }

  // The two best of the cached objects. On ties the lowest lane, then the lowest object wins, as in
  // full(): the result does not depend on what happens to be cached.
  static __device__ __forceinline__ Top cached(const State& s, const Pair<Id>& pair,
                                               const float4& p) {
    const int a = pair.a, b = pair.b;
    const int va = a != kNone ? value(s.object[a], p) : INT_MAX;
    const int vb = b != kNone ? value(s.object[b], p) : INT_MAX;
    const bool swap = vb < va || (vb == va && b < a);
    return warp_top(swap ? vb : va, swap ? b : a, swap ? va : vb);
  }

  // Scans all groups that may hold a value below `limit` and refills the cache. Prices that rise
  // meanwhile may overtake the limit: then the object may not be the best, or kNone.
  static __device__ __forceinline__ Top full(const State& s, int i, const float4& p, int limit) {
    const int lane = threadIdx.x % 32;
    int skipped = INT_MAX, b1 = INT_MAX, b2 = INT_MAX, b3 = INT_MAX, i1 = kNone, i2 = kNone;
    for (int g0 = 0; g0 < s.G; g0 += 32) {
      const int bound = g0 + lane < s.G ? group_bound(s, g0 + lane, p) : INT_MAX;
      if (bound >= limit) skipped = min(skipped, bound);
      unsigned groups = __ballot_sync(kWholeWarp, bound < limit);
#pragma unroll 1
      while (groups != 0) {
        const int j = (g0 + __ffs(groups) - 1) * 32 + lane;
        groups &= groups - 1;
        const int k = groups != 0 ? (g0 + __ffs(groups) - 1) * 32 + lane : -1;
        groups &= groups - 1;
        const int vj = value(s.object[j], p);
        const int vk = k >= 0 ? value(s.object[k], p) : INT_MAX;
        const auto insert = [&](int object, int v) {
          const bool first = v < b1, second = v < b2;
          b3 = min(b3, max(b2, v));
          i2 = first ? i1 : second ? object : i2;
          b2 = min(b2, max(b1, v));
          i1 = first ? object : i1;
          b1 = min(b1, v);
        };
        insert(j, vj);
        insert(k, vk);
      }
    }
    s.cache[static_cast<int64_t>(i) * 32 + lane] = {static_cast<Id>(b1 < kFar ? i1 : kNone),
                                                    static_cast<Id>(b2 < kFar ? i2 : kNone)};
    const int bound = warp_min(min(b3, skipped));
    if (lane == 0) s.bound[i] = bound;
    s.team.publish();  // whoever evicts bidder i reads them next
    __syncwarp();
    Top top = warp_top(b1, i1, b2);
    // What was skipped may be second best or best then: a bid counts on no more than its bound.
    top.second = min(top.second, max(top.best, bound));
    return top;
  }

  // Best and second-best value of bidder i, exact while no price rises (see full()); `slack` widens
  // a scan so that its cache lasts.
  static __device__ __forceinline__ Top best_two(const State& s, int i, int slack) {
    const float4 p = s.bidder[i];
    const int bound = load_fresh(s.bound + i);
    const Pair<Id> pair = load_fresh(s.cache + static_cast<int64_t>(i) * 32 + threadIdx.x % 32);
    int limit = kFar;
    if (bound != INT_MIN) {
      const Top top = cached(s, pair, p);
      if (top.second < bound) return top;
      limit = top.second;
    } else {
      int nearest = INT_MAX, group = 0;
      for (int g = threadIdx.x % 32; g < s.G; g += 32) {
        const int least = group_bound(s, g, p);
        if (least < nearest) nearest = least, group = g;
      }
      const Top top = warp_top(nearest, group, INT_MAX);
      const int v = value(s.object[top.object * 32 + threadIdx.x % 32], p);
      limit = warp_top(v, 0, INT_MAX).second;
    }
    limit = min(limit, kFar) + min(slack, kPriceLimit);
    return full(s, i, p, limit);
  }
};

}  // namespace pointloss
