// SPDX-License-Identifier: MIT
// Loads a pair of clouds into the state of the integer solver (see assign_solver.cuh): objects
// along the Hilbert curve in groups of 32 with their boxes, by a bitonic sort of the block.
#pragma once

#include "../common/hilbert.h"
#include "assign_state.cuh"

namespace pointloss {

static __device__ const HilbertSteps kObjectCurve = kHilbertSteps;

struct SolverInput {
  const float *bidder, *object;               // [dim, K], [dim, N], sizes below 1
  const double *bidder_exact, *object_exact;  // the same, as given but for the scale
  const double* price_in;                     // [N] or null
  const int64_t* idx_in;  // a matching that came with it, by points of x, or null
  bool swapped;           // x are the objects
  double price_scale;     // takes price_in to units of the costs
  int K, N, dim;          // bidders, objects
  double rtol;
  int64_t round_limit;
  bool deterministic;

  // The price given for object k, in units; 0 for what is none, as NaN.
  __device__ __forceinline__ int price_units(int k) const {
    const double p = price_in[k] * price_scale * static_cast<double>(1 << kCostBits);
    return p > -kPriceLimit && p < kPriceLimit ? static_cast<int>(p) : 0;
  }
};

template <class Id, bool kSquared>
struct Loader {
  static constexpr int kNone = Scanner<Id, kSquared>::kNone;

  const SolverState<Id>& s;
  SolverShared& h;
  const SolverInput& in;
  int* order;  // [N] object at position j of the curve

  __device__ __forceinline__ float at(const float* a, int count, int i, int d) const {
    return d < in.dim ? a[static_cast<int64_t>(d) * count + i] : 0.0f;
  }
  __device__ __forceinline__ float object_at(int j, int d) const {
    return at(in.object, in.N, j, d);
  }

  // Orders the objects along the curve, in the low halves of the words.
  __device__ __forceinline__ void sort_objects() {
    const auto ordered = [](float v) {
      const int bits = __float_as_int(v);
      return bits ^ ((bits >> 31) & 0x7fffffff);
    };
    const auto plain = [](int v) { return __int_as_float(v ^ ((v >> 31) & 0x7fffffff)); };
    if (threadIdx.x < 3) h.low[threadIdx.x] = INT_MAX, h.high[threadIdx.x] = INT_MIN;
    __syncthreads();
    for (int d = 0; d < 3; ++d) {
      int low = INT_MAX, high = INT_MIN;
      for (int j = threadIdx.x; j < in.N; j += kSolverThreads) {
        const int v = ordered(object_at(j, d));
        low = min(low, v), high = max(high, v);
      }
      low = warp_min(low), high = warp_max(high);
      if (threadIdx.x % 32 == 0) atomicMin(h.low + d, low), atomicMax(h.high + d, high);
    }
    __syncthreads();
    const float x0 = plain(h.low[0]), y0 = plain(h.low[1]), z0 = plain(h.low[2]);
    const float extent =
        fmaxf(fmaxf(plain(h.high[0]) - x0, plain(h.high[1]) - y0), plain(h.high[2]) - z0);
    const float scale = extent > 0.0f ? 1023.0f / extent : 0.0f;
    const auto cell = [&](float v, float low) {
      return min(static_cast<unsigned>((v - low) * scale), 1023u);
    };
    int words = 1;
    while (words < 32 * s.G) words *= 2;
    for (int j = threadIdx.x; j < words; j += kSolverThreads) {
      unsigned long long key = ~0u;
      if (j < in.N) {
        key = hilbert_key(kObjectCurve, cell(object_at(j, 0), x0), cell(object_at(j, 1), y0),
                          cell(object_at(j, 2), z0), 10, 10);
      }
      s.word[j] = (key << 32) | static_cast<unsigned>(j);
    }
    for (int k = 2; k <= words; k *= 2) {
      for (int step = k / 2; step > 0; step /= 2) {
        __syncthreads();
        for (int q = threadIdx.x; q < words / 2; q += kSolverThreads) {
          const int a = 2 * q - (q & (step - 1));
          const auto u = s.word[a], v = s.word[a + step];
          if ((u > v) == ((a & k) == 0)) s.word[a] = v, s.word[a + step] = u;
        }
      }
    }
    __syncthreads();
  }

  __device__ __forceinline__ void run() {
    const float scale = static_cast<float>(1 << (kSquared ? kCostBits / 2 : kCostBits));
    sort_objects();
    for (int j = threadIdx.x; j < 32 * s.G; j += kSolverThreads) {
      const int k = static_cast<int>(s.word[min(j, in.N - 1)] & 0xffffffffu);
      if (j < in.N) order[j] = k;
      s.object[j] = make_float4(object_at(k, 0) * scale, object_at(k, 1) * scale,
                                object_at(k, 2) * scale, __int_as_float(j < in.N ? 0 : kFar));
      s.owner[j] = static_cast<Id>(kNone);
    }
    for (int i = threadIdx.x; i < in.N; i += kSolverThreads) {
      const auto coordinate = [&](int d) {
        return i < in.K ? at(in.bidder, in.K, i, d) * scale : kNowhere;
      };
      s.bidder[i] = make_float4(coordinate(0), coordinate(1), coordinate(2), 0.0f);
    }
    __syncthreads();
    for (int g = threadIdx.x / 32; g < s.G; g += kSolverWarps) {
      const float4 o = s.object[g * 32 + threadIdx.x % 32];
      float low[3] = {o.x, o.y, o.z}, high[3] = {o.x, o.y, o.z};
      for (int d = 0; d < 3; ++d) {
        for (int offset = 16; offset > 0; offset /= 2) {
          low[d] = fminf(low[d], __shfl_xor_sync(kWholeWarp, low[d], offset));
          high[d] = fmaxf(high[d], __shfl_xor_sync(kWholeWarp, high[d], offset));
        }
        if (threadIdx.x % 32 == 0) {
          s.box[d * s.G + g] = low[d];
          s.box[(3 + d) * s.G + g] = high[d];
        }
      }
    }
    __syncthreads();
  }
};

}  // namespace pointloss
