// SPDX-License-Identifier: MIT
// Loads a pair of clouds into the state of an integer solver: objects along the Hilbert curve in
// groups of 32 with their bounding boxes, by a bitonic sort of the block.
#pragma once

#include "../../shared/curve.cuh"
#include "state.cuh"

namespace pointloss {

// Orders the objects along the curve, in the low halves of sort_key.
template <class State>
__device__ __forceinline__ void sort_objects(const State& s, IntegerShared& h) {
  const IntegerInput& in = *s.in;
  const auto coordinate = [&](int j, int d) {
    return d < in.dim ? in.object[static_cast<int64_t>(d) * in.N + j] : 0.0f;
  };
  if (s.thread() < 3) h.low[s.thread()] = ~0u, h.high[s.thread()] = 0;
  s.sync();
  for (int d = 0; d < 3; ++d) {
    unsigned low = ~0u, high = 0;
    for (int j = s.thread(); j < in.N; j += s.threads()) {
      const unsigned v = to_ordered(coordinate(j, d));
      low = min(low, v), high = max(high, v);
    }
    low = warp_min(low), high = warp_max(high);
    if (threadIdx.x % 32 == 0) atomicMin(h.low + d, low), atomicMax(h.high + d, high);
  }
  s.sync();
  BoxGrid<10> grid{};
  float extent = 0.0f;
  for (int d = 0; d < 3; ++d) {
    grid.lower[d] = from_ordered(h.low[d]);
    extent = fmaxf(extent, from_ordered(h.high[d]) - grid.lower[d]);
  }
  grid.scale = extent > 0.0f ? 1023.0f / extent : 0.0f;
  const auto keys = static_cast<int>(power_of_two_from(32 * int64_t{s.G}));
  for (int j = s.thread(); j < keys; j += s.threads()) {
    unsigned key = ~0u;
    if (j < in.N) key = grid.key(kCurveSteps, coordinate(j, 0), coordinate(j, 1), coordinate(j, 2));
    s.sort_key[j] = static_cast<unsigned long long>(key) << 32 | static_cast<unsigned>(j);
  }
  for (int k = 2; k <= keys; k *= 2) {
    for (int step = k / 2; step > 0; step /= 2) {
      s.sync();
      for (int q = s.thread(); q < keys / 2; q += s.threads()) {
        const int a = 2 * q - (q & (step - 1));
        const auto u = s.sort_key[a], v = s.sort_key[a + step];
        if ((u > v) == ((a & k) == 0)) s.sort_key[a] = v, s.sort_key[a + step] = u;
      }
    }
  }
  s.sync();
}

// Fills object and order, along the curve.
template <class State>
__device__ __forceinline__ void load_objects(const State& s, IntegerShared& h) {
  sort_objects(s, h);
  for (int j = s.thread(); j < 32 * s.G; j += s.threads()) {
    const int k = static_cast<int>(s.sort_key[min(j, s.N - 1)] & 0xffffffffu);
    if (j < s.N) s.order[j] = k;
    s.object[j] = s.object_in(k);
  }
}

// Every block has all boxes.
template <class State>
__device__ __forceinline__ void load_boxes(const State& s) {
  for (int g = static_cast<int>(threadIdx.x) / 32; g < s.G; g += kIntegerWarps) {
    const float4 o = s.object[g * 32 + threadIdx.x % 32];
    const float at[3] = {o.x, o.y, o.z};
    for (int d = 0; d < 3; ++d) {
      const float low = warp_min(at[d]), high = warp_max(at[d]);
      if (threadIdx.x % 32 == 0) s.box[d * s.G + g] = low, s.box[(3 + d) * s.G + g] = high;
    }
  }
}

}  // namespace pointloss
