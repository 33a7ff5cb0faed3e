// SPDX-License-Identifier: MIT
// Prices of the integer solvers: the given ones to start from, the least one, the result.
#pragma once

#include "../workspace.cuh"

namespace pointloss {

// Least price of group g, by one warp.
template <class State>
__device__ __forceinline__ int least_price_of_group(const State& s, int g) {
  return warp_min(s.price(g * 32 + threadIdx.x % 32));
}
template <class State>
__device__ __forceinline__ void refresh_group(const State& s, int g) {
  const int least = least_price_of_group(s, g);
  if (threadIdx.x % 32 == 0) s.box_price[g] = least;
}
template <class Id, Cost kCost, class Blocks>
__device__ __forceinline__ void refresh_group(const EqualState<Id, kCost, Blocks>& s, int g) {
  const int least = least_price_of_group(s, g);
  const int along = warp_min(s.leaning(g * 32 + threadIdx.x % 32, g));
  if (threadIdx.x % 32 == 0) s.box_price[g] = least, s.lean[g].w = __int_as_float(along);
}
template <class State>
__device__ __forceinline__ void refresh_groups(const State& s) {
  s.sync();
  for (int g = s.warp(); g < s.G; g += s.warps()) refresh_group(s, g);
  s.sync();
}

// Sets every price to price_at(position) and forgets the owners.
template <class State, class Price>
__device__ __forceinline__ void restart_prices(const State& s, Price price_at) {
  s.sync();
  for (int j = s.thread(); j < 32 * s.G; j += s.threads()) {
    s.set_price(j, j < s.N ? price_at(j) : kFar);
    s.owner[j] = static_cast<typename State::Id>(State::kNone);
  }
  refresh_groups(s);
}

// The least of value(k) over k in [0, count), the same in all threads that share a copy.
template <class State, class Value>
__device__ __forceinline__ int least_of(const State& s, IntegerShared& h, int count, Value value) {
  s.sync();
  if (s.thread() == 0) h.least = INT_MAX;
  s.sync();
  int least = INT_MAX;
  for (int k = s.thread(); k < count; k += s.threads()) least = min(least, value(k));
  least = warp_min(least);
  if (threadIdx.x % 32 == 0) atomicMin(&h.least, least);
  s.sync();
  return h.least;
}

// The prices of a warm start, less the least of them; what is not a price counts as 0.
template <class State>
__device__ __forceinline__ void load_prices(const State& s, IntegerShared& h) {
  const auto units = [&](int j) { return s.in->price_units(s.order[j]); };
  const int least = least_of(s, h, s.N, units);
  restart_prices(s, [&](int j) {
    return static_cast<int>(min(static_cast<int64_t>(units(j)) - least, int64_t{kRaiseLimit}));
  });
}

// Price of the object at position j above the least one, scaled as the clouds.
template <class State>
__device__ __forceinline__ double scaled_price(const State& s, int j, int least) {
  return (s.price(j) - least) * (1.0 / (1 << kCostBits));
}

// Writes prices, owners and partners, of which dummies are none, by one block.
template <class State>
__device__ __forceinline__ void store(const State& s, int least, const PairArrays& to) {
  for (int i = s.thread(); i < s.in->K; i += s.threads()) to.partner[i] = -1;
  s.sync();
  for (int j = s.thread(); j < s.N; j += s.threads()) {
    const int k = s.order[j], i = s.owner[j];
    const bool owned = i != State::kNone && i < s.in->K;
    to.price[k] = scaled_price(s, j, least);
    to.price_f[k] = static_cast<float>(to.price[k]);
    to.owner[k] = owned ? i : -1;
    if (owned) to.partner[i] = k;
  }
  s.sync();
}

}  // namespace pointloss
