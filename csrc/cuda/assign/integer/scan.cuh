// SPDX-License-Identifier: MIT
// The best object of a bidder and its second-best value, by one warp.
//
// A warp looks through the groups of 32 objects whose bounding box and least price say that they
// may hold one of the two; each lane keeps the best that it sees.
// Equal sizes: a bidder keeps the two best objects of every lane and a bound below which no other
// object was. Prices only rise, hence both are the best of all objects as long as the second best
// of the cached is below the bound.
// Unequal sizes: the scan begins at the group of the last bid, and noise breaks ties.
#pragma once

#include "../best_two.cuh"
#include "state.cuh"

namespace pointloss {

// At most the value of any object of group g: two units less for what rounding may add. Of a NaN
// and a number, fmaxf takes the number.
template <class State>
__device__ __forceinline__ int group_bound(const State& s, int g, float4 p) {
  const float* box = s.box + g;
  const int G = s.G;
  const float dx = fmaxf(fmaxf(box[0] - p.x, p.x - box[3 * G]), 0.0f);
  const float dy = fmaxf(fmaxf(box[G] - p.y, p.y - box[4 * G]), 0.0f);
  const float dz = fmaxf(fmaxf(box[2 * G] - p.z, p.z - box[5 * G]), 0.0f);
  const float sum = fmaf(dx, dx, fmaf(dy, dy, dz * dz));
  const float cost = s.cost_of(sum) * (1.0f - 0x1p-20f);
  return __float2int_rd(cost) - 2 + s.box_price[g];
}

// The same, or more where all objects of the group lie in about one direction.
template <class Id, Cost kCost, class Blocks>
__device__ __forceinline__ int scan_bound(const EqualState<Id, kCost, Blocks>& s, int g, float4 p) {
  return max(group_bound(s, g, p), s.lean_bound(g, p));
}
template <Cost kCost>
__device__ __forceinline__ int scan_bound(const UnequalState<kCost>& s, int g, float4 p) {
  return group_bound(s, g, p);
}

// The best two of all lanes. On a tie the lowest lane wins.
__device__ __forceinline__ BestTwo<int> best_of_warp(int best, int second, int object) {
  BestTwo<int> top;
  top.best = warp_min(best);
  const int lane = __ffs(__ballot_sync(kWholeWarp, best == top.best)) - 1;
  top.object = __shfl_sync(kWholeWarp, object, lane);
  top.second = warp_min(static_cast<int>(threadIdx.x % 32) == lane ? second : best);
  return top;
}

template <class State>
__device__ __forceinline__ int nearest_group(const State& s, float4 p) {
  int nearest = INT_MAX, group = 0;
  for (int g = threadIdx.x % 32; g < s.G; g += 32) {
    const int least = scan_bound(s, g, p);
    if (least < nearest) nearest = least, group = g;
  }
  return best_of_warp(nearest, INT_MAX, group).object;
}

// Calls use(j, value_of(j, object)) for this lane's objects j, each with its price, of the groups g
// for which within(g, bound) holds: kAtOnce groups at a time. All objects are read before any is
// used, and without a branch, so that their latencies overlap; where groups are missing the last is
// read again and given to use() as INT_MAX. Calls after() once per 32 groups of which any was
// visited.
template <int kAtOnce, class State, class Within, class Value, class Use, class After>
__device__ __forceinline__ void visit_groups(const State& s, float4 p, Within within,
                                             Value value_of, Use use, After after) {
  const int lane = threadIdx.x % 32;
  for (int g0 = 0; g0 < s.G; g0 += 32) {
    const int bound = g0 + lane < s.G ? scan_bound(s, g0 + lane, p) : INT_MAX;
    unsigned groups = __ballot_sync(kWholeWarp, within(g0 + lane, bound));
    if (groups == 0) continue;
#pragma unroll 1
    while (groups != 0) {
      int j[kAtOnce] = {}, value[kAtOnce];
      bool real[kAtOnce];
      float4 object[kAtOnce];
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        real[k] = groups != 0;
        j[k] = real[k] ? (g0 + __ffs(groups) - 1) * 32 + lane : j[k > 0 ? k - 1 : 0];
        groups &= groups - 1;
        object[k] = s.priced(j[k]);
      }
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) value[k] = value_of(j[k], object[k]);
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) use(j[k], real[k] ? value[k] : INT_MAX);
    }
    after();
  }
}

// What a lane saw in a scan of a bidder, in one word, so that it is written and read as a whole: of
// its objects, which are those at its place in every group, the groups of the two best, and a bound
// below which no other was. Prices only rise, so that stays true. The lanes of a row may therefore
// be of different scans: a row needs no order of writes among warps.
struct LaneCache {
  static constexpr unsigned kNoGroup = 0xffff;
  unsigned a, b;
  int bound;

  __device__ __forceinline__ static LaneCache of(unsigned long long word) {
    const auto low = static_cast<unsigned>(word);
    return {low >> 16, low & 0xffff, static_cast<int>(word >> 32)};
  }
  __device__ __forceinline__ unsigned long long word() const { return pack(bound, a << 16 | b); }
};
constexpr unsigned long long kNotScanned = 0x80000000ffffffff;
static_assert(kEqualMostPoints / 32 <= LaneCache::kNoGroup, "a group's number has 16 bits");

template <class Id, Cost kCost, class Blocks>
__device__ __forceinline__ LaneCache cached(const EqualState<Id, kCost, Blocks>& s, int i) {
  return LaneCache::of(load_fresh(s.cache + static_cast<int64_t>(i) * 32 + threadIdx.x % 32));
}

template <class Id, Cost kCost, class Blocks>
__device__ __forceinline__ BestTwo<int> best_two_cached(const EqualState<Id, kCost, Blocks>& s,
                                                        const LaneCache& lane, float4 p) {
  // On ties the lowest lane, then the lowest object wins, as in refill_cache(): the result does not
  // depend on what happens to be cached.
  const bool has_a = lane.a != LaneCache::kNoGroup, has_b = lane.b != LaneCache::kNoGroup;
  const int own = threadIdx.x % 32;
  // Both are read at once: object 0 in place of none.
  const int a = has_a ? static_cast<int>(lane.a) * 32 + own : 0;
  const int b = has_b ? static_cast<int>(lane.b) * 32 + own : 0;
  const float4 oa = s.priced(a), ob = s.priced(b);
  const int at_a = s.value(oa, p), at_b = s.value(ob, p);
  const int va = has_a ? at_a : INT_MAX, vb = has_b ? at_b : INT_MAX;
  const bool swap = vb < va || (vb == va && b < a);
  return best_of_warp(swap ? vb : va, swap ? va : vb, swap ? b : a);
}

// Scans all groups that may hold a value below `limit` and refills the cache. Prices that rise
// meanwhile may exceed the limit: then the object may not be the best, or kNone.
template <class Id, Cost kCost, class Blocks>
__device__ __forceinline__ BestTwo<int> refill_cache(const EqualState<Id, kCost, Blocks>& s, int i,
                                                     float4 p, int limit) {
  const int lane = threadIdx.x % 32;
  int skipped = INT_MAX, b1 = INT_MAX, b2 = INT_MAX, b3 = INT_MAX, i1 = s.kNone, i2 = s.kNone;
  visit_groups<EqualState<Id, kCost, Blocks>::kTeam ? 4 : 2>(
      s, p,
      [&](int, int bound) {
        if (bound >= limit) skipped = min(skipped, bound);
        return bound < limit;
      },
      [&](int, float4 o) { return s.value(o, p); },
      [&](int object, int v) {
        const bool first = v < b1, second = v < b2;
        b3 = min(b3, max(b2, v));
        i2 = first ? i1 : second ? object : i2;
        b2 = min(b2, max(b1, v));
        i1 = first ? object : i1;
        b1 = min(b1, v);
      },
      [] {});
  const int bound = warp_min(min(b3, skipped));
  const auto group = [](bool any, int object) {
    return any ? static_cast<unsigned>(object) / 32 : LaneCache::kNoGroup;
  };
  s.cache[static_cast<int64_t>(i) * 32 + lane] =
      LaneCache{group(b1 < kFar, i1), group(b2 < kFar, i2), bound}.word();
  BestTwo<int> top = best_of_warp(b1, b2, i1);
  // A skipped object may be second best or best then: a bid counts on no more than its bound.
  top.second = min(top.second, max(top.best, bound));
  return top;
}

// Best two of bidder i, exact while no price rises (see refill_cache()), but for the second of one
// that has an object and was not scanned yet; `slack` widens a scan so that its cache lasts.
// If `relax` >= 0, a cached object serves that is at most so far above the best; what is not cached
// then counts as second.
template <class Id, Cost kCost, class Blocks>
__device__ __forceinline__ BestTwo<int> best_two(const EqualState<Id, kCost, Blocks>& s, int i,
                                                 int slack, int relax = -1) {
  const float4 p = s.bidder[i];
  const LaneCache lane = cached(s, i);
  const int bound = warp_min(lane.bound);
  int limit = kFar;
  if (bound != INT_MIN) {
    const BestTwo<int> top = best_two_cached(s, lane, p);
    if (top.second < bound) return top;
    if (relax >= 0 && top.best < min(bound, kFar) + relax) {
      return {top.best, max(top.best, bound), top.object};
    }
    limit = top.second;
  } else {
    const int v = s.value(nearest_group(s, p) * 32 + threadIdx.x % 32, p);
    const BestTwo<int> near = best_of_warp(v, INT_MAX, 0);
    // Who has an object is not about to bid: the best will do.
    const int j = s.partner[i];
    limit = j == s.kNone ? near.second : min(near.best, s.value(j, p)) + 1;
  }
  limit = min(limit, kFar) + min(slack, kPriceLimit);
  return refill_cache(s, i, p, limit);
}

// Makes every value larger by less than `size`, by another amount for each salt.
struct Noise {
  unsigned salt, size;
  __device__ __forceinline__ int of(int j) const {
    unsigned a = (static_cast<unsigned>(j) ^ salt) * 0x9e3779b1u;
    a = (a ^ (a >> 15)) * 0x85ebca6bu;
    return static_cast<int>(__umulhi(a, size));
  }
};

// Best two of bidder i, who is at p; the second exact only if less than `width` above the best.
template <Cost kCost>
__device__ __forceinline__ BestTwo<int> best_two(const UnequalState<kCost>& s, int i, float4 p,
                                                 int width, Noise noise) {
  const auto value = [&](int j, float4 o) { return s.value(o, p) + noise.of(j); };
  int start = load_fresh(s.last_group + i);
  if (start < 0) start = nearest_group(s, p);
  BestTwo<int> top{INT_MAX, INT_MAX, 0};
  const int first = start * 32 + static_cast<int>(threadIdx.x) % 32;
  top.take(value(first, s.priced(first)), first);
  int limit = warp_min(top.best) + width;
  visit_groups<4>(
      s, p, [&](int g, int bound) { return g != start && bound < limit; }, value,
      [&](int j, int v) { top.take(v, j); },
      [&] { limit = min(limit, warp_min(top.best) + width); });
  return best_of_warp(top.best, top.second, top.object);
}

}  // namespace pointloss
