// SPDX-License-Identifier: MIT
// What a thread block holds of a pair of clouds while the integer solvers (equal.cuh, unequal.cuh)
// work on it.
//
// A cost is a float rounded to 2^-26 of the scaled extent. Prices are integers in that unit, hence
// a bid always raises a price and no sum depends on an order. Objects lie along a Hilbert curve in
// groups of 32; every group has a bounding box and a least price. Arrays that share memory are
// declared together.
#pragma once

#include <cuda_runtime.h>

#include <climits>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "../../../common/arena.h"
#include "../../../common/assign.h"
#include "../../shared/warp.cuh"
#include "../cluster.cuh"

namespace pointloss {

// With coordinates below 1 in size, costs stay below 2^27 (2^28 squared) and values below 2^31.
constexpr int kCostBits = 26;
constexpr int kFar = 1 << 30;         // price of what pads the last group
constexpr int kPriceLimit = 1 << 29;  // the solver gives up at a higher price: sums stay below 2^31
constexpr int kRaiseLimit = 1 << 28;  // the largest cost; no bid raises a price by more
constexpr int kLeanMargin = 128;      // of lean_bound(), which says why
constexpr unsigned kNobody = 0xffffffffu;
// Coordinates of a dummy, for whom every object costs 0: see nearest_int() and group_bound().
constexpr float kNowhere = std::numeric_limits<float>::quiet_NaN();

// The pair of clouds to solve.
struct IntegerInput {
  const float *bidder, *object;               // [dim, K], [dim, N], sizes below 1
  const double *bidder_exact, *object_exact;  // the same, as given but for the scale
  const double* price_in;                     // [N] or null
  const int64_t* idx_in;  // a matching that came with it, by points of x, or null
  bool swapped;           // x are the objects
  double price_scale;     // takes price_in to units of the costs
  int K, N, dim;          // bidders, objects
  AssignTolerance asked;  // in scaled costs
  int64_t round_limit;
  bool deterministic;

  // Gap to aim at where the costs add up to `cost` units, in units: what is asked for less what
  // costs lose to rounding.
  __device__ __forceinline__ double tolerance(double cost) const {
    const double most =
        fmax(asked.rtol * cost, asked.atol * static_cast<double>(1 << kCostBits) * K);
    return fmax(most * (1.0 - 0x1p-10) - 1e-7 * cost, 1e-7 * cost);
  }
  // The price given for object k, in units; 0 if it is no price, as NaN.
  __device__ __forceinline__ int price_units(int k) const {
    const double p = price_in[k] * price_scale * static_cast<double>(1 << kCostBits);
    return p > -kPriceLimit && p < kPriceLimit ? static_cast<int>(p) : 0;
  }
};

// Counters of a block, in shared memory.
struct IntegerShared {
  unsigned long long value_sum, cost_sum, price_sum;  // of a pass over bidders and objects
  unsigned low[3], high[3];                           // bounding box, as to_ordered()
  int stop;                                           // few enough bidders are without an object
  int overflow;                                       // a price is too large
  int least, worst;                                   // price; miss of a sampled object
  int level;                                          // price of an object of a dummy
  // Of a path search. Those of round r lie at r % 3; the next one's are reset meanwhile.
  int count[3], next_label[3], claimed[3];
  int matched;                  // roots
  int missing;                  // objects that the dummies still look for
  unsigned long long entry[3];  // label and object by which the dummies are reached
  int free, nearest;            // least label of a free object; least that one is offered
  int ahead, frees;             // least that a frontier offers to one; number of free objects
  int free_object[kMaxFree];    // unless they are more
  int near[kIntegerWarps];      // owned objects from which one of those is near, or none
  union {
    unsigned long long found[kMaxSources];  // label and free object to match a root with
    float sums[3][kIntegerWarps];           // of coordinates, by warp
  };
};

// What a kernel's costs are.
enum class Cost { kDistance, kSquare };

// Two numbers in one word, which atomics order by the first: price and owner, label and bidder.
__device__ __forceinline__ unsigned long long pack(int high, unsigned low) {
  return (static_cast<unsigned long long>(high) << 32) | low;
}

// The place of this lane in a list of *count, to which the lanes of `mask` are appended.
__device__ __forceinline__ int append_place(int* count, unsigned mask) {
  int at = 0;
  if (threadIdx.x % 32 == 0) at = atomicAdd(count, __popc(mask));
  return __shfl_sync(kWholeWarp, at, 0) + rank_in(mask);
}

__host__ __device__ constexpr int64_t power_of_two_from(int64_t count) {
  int64_t power = 1;
  while (power < count) power *= 2;
  return power;
}

// What both solvers have. Ids are uint16_t or int; arrays are as long as their comment says.
template <class IdType, Cost kCost, class Blocks = Cluster>
struct IntegerState {
  using Id = IdType;
  static constexpr bool kTeam = std::is_same_v<Blocks, Team>;
  static constexpr int kNone = static_cast<Id>(~Id{0});  // no object or bidder: 65535, or -1

  const IntegerInput* in;
  int N, G;    // objects, groups of 32
  int* order;  // [N] object at position j of the curve, in global memory
  Blocks cluster;
  ClusterExchange* exchange;
  float4* object;                // [32 G] coordinates
  Id* owner;                     // [32 G] or kNone
  Id* queue;                     // [bidders] that wait to bid
  float* box;                    // [6, G]
  int* box_price;                // [G] at most the least price of a group
  unsigned long long* sort_key;  // [2^ceil(log2 32 G)] while the objects are loaded

  // Of the threads that share a copy of the arrays: this one, how many, their barrier, and how many
  // of them call with true, behind a barrier.
  __device__ __forceinline__ int thread() const { return cluster.thread(); }
  __device__ __forceinline__ int threads() const { return cluster.threads(); }
  __device__ __forceinline__ int warp() const { return thread() / 32; }
  __device__ __forceinline__ int warps() const { return threads() / 32; }
  __device__ __forceinline__ void sync() const { cluster.sync_copy(); }
  __device__ __forceinline__ int count(bool mine) const { return cluster.count(mine); }

  __device__ __forceinline__ bool squared() const { return kCost == Cost::kSquare; }
  // The cost of a difference with this square.
  __device__ __forceinline__ float cost_of(float square) const {
    return squared() ? square : approximate_root_ftz(square);
  }
  // Points are passed by value: then one is read from memory by one load, not by its coordinates.
  __device__ __forceinline__ int cost(float4 o, float4 p) const {
    const float dx = p.x - o.x, dy = p.y - o.y, dz = p.z - o.z;
    return nearest_int(cost_of(fmaf(dx, dx, fmaf(dy, dy, dz * dz))));
  }
  // Of an object with its price in w, as the derived priced(j) gives object j.
  __device__ __forceinline__ static int price_of(float4 o) { return __float_as_int(o.w); }
  __device__ __forceinline__ int value(float4 o, float4 p) const {
    return cost(o, p) + price_of(o);
  }
  // Point i of [dim, count] coordinates, in units of the costs.
  __device__ __forceinline__ float4 point(const float* a, int64_t count, int64_t i) const {
    const float scale = static_cast<float>(1 << (squared() ? kCostBits / 2 : kCostBits));
    const auto at = [&](int64_t d) { return d < in->dim ? a[d * count + i] * scale : 0.0f; };
    return make_float4(at(0), at(1), at(2), 0.0f);
  }
  __device__ __forceinline__ float4 bidder_in(int i) const { return point(in->bidder, in->K, i); }
  __device__ __forceinline__ float4 object_in(int k) const { return point(in->object, N, k); }
};

// Of `objects` objects, without arrays.
template <class State>
__host__ __device__ State empty_state(int64_t objects) {
  State s{};
  s.N = static_cast<int>(objects);
  s.G = static_cast<int>((objects + 31) / 32);
  return s;
}

// Of equal sizes: K bidders; if N is more, number K stands for the N - K dummies. All arrays lie in
// shared memory, but for those of the whole cluster; in global memory if ids have 32 bits: those of
// a single block or of a team.
template <class Id, Cost kCost, class Blocks = Cluster>
struct EqualState : IntegerState<Id, kCost, Blocks> {
  using Base = IntegerState<Id, kCost, Blocks>;
  static constexpr bool kWide = sizeof(Id) == sizeof(int);

  float4* bidder;             // [N] coordinates; w: base of a row of a path search (int bits)
  unsigned long long *label,  // [32 G] in sort_key: distance and bidder of a labelled object
      *claim;                 // [N] in sort_key: who is given an object by the given matching
  int *best,                  // [N] one array: best value of a bidder in a first pass;
      *slack,                 //     by how much its own value exceeds that;
      *distance;              //     label of a row of a path search
  Id* partner;                // [N] or kNone
  Id *root,                   // [32 G] one array: place in found[] of a labelled object's root;
      *selected;              //     rows that each warp selected
  int* box_label;             // [G] at least the largest label of a group
  float4* lean;  // [G] a direction; w: at most the least of price and part along it (int bits);
                 // last the middle of the bidders
  int* base;     // [32 G] of wide ids, else [32 ceil(G / 32)]: counts, by warp or group. The last
              //     array: of a short pair in a long batch it goes on over what others would have

  // In global memory, of the whole cluster:
  unsigned long long* cache;      // [N, 32] what each lane saw in a scan: see LaneCache
  unsigned long long *bid,        // [N] one array: price and owner during an auction;
      *best_count;                // [G] bidders whose best object is in a group. Single block:
                                  //     sort_key
  int *found_best, *found_slack;  // [N] one array: what a pass finds. Single block: best, slack

  __device__ __forceinline__ int bidders() const { return this->in->K; }
  __device__ __forceinline__ float4 bidder_at(int i) const { return bidder[i]; }
  // Bids of other blocks may have raised a team's prices.
  __device__ __forceinline__ float4 priced(int j) const {
    return Base::kTeam ? __ldcg(this->object + j) : this->object[j];
  }
  __device__ __forceinline__ int price(int j) const {
    const float* at = &this->object[j].w;
    return __float_as_int(Base::kTeam ? __ldcg(at) : *at);
  }
  __device__ __forceinline__ void set_price(int j, int price) const {
    this->object[j].w = __int_as_float(price);
  }
  using Base::value;
  __device__ __forceinline__ int value(int j, float4 p) const { return value(priced(j), p); }

  // A distance is at least its part along any direction. Parts are counted from the middle of the
  // clouds, which may lie far from the origin. Margin: what roundings may add.
  __device__ __forceinline__ float along(float4 at, float4 direction) const {
    const float4 middle = lean[this->G];
    return fmaf(at.x - middle.x, direction.x,
                fmaf(at.y - middle.y, direction.y, (at.z - middle.z) * direction.z));
  }
  __device__ __forceinline__ int leaning(int j, int g) const {
    return __float2int_rd(along(priced(j), lean[g])) + price(j);
  }
  // Of dummies, whose coordinates are NaN and to whom all is equally far, there is no such bound.
  __device__ __forceinline__ int lean_bound(int g, float4 p) const {
    if (this->squared()) return INT_MIN;
    const float4 to = lean[g];
    const float part = along(p, to);
    return part == part ? __float_as_int(to.w) - __float2int_rd(part) - kLeanMargin : INT_MIN;
  }
};

// Takes what a block has to itself.
template <class Id, Cost kCost, class Blocks>
__host__ __device__ void take_arrays(EqualState<Id, kCost, Blocks>& s, Arena<16>& arena) {
  const int64_t wide = int64_t{32} * s.G;
  arena.take(s.object, wide);
  arena.take(s.bidder, s.N);
  arena.overlay([&] { arena.take(s.sort_key, power_of_two_from(wide)); },
                [&] { arena.take(s.claim, s.N); }, [&] { arena.take(s.label, wide); });
  arena.overlay([&] { arena.take(s.best, s.N); }, [&] { arena.take(s.slack, s.N); },
                [&] { arena.take(s.distance, s.N); });
  arena.take(s.lean, s.G + 1);
  arena.take(s.partner, s.N);
  arena.take(s.owner, wide);
  arena.overlay([&] { arena.take(s.root, wide); }, [&] { arena.take(s.selected, wide); });
  arena.take(s.queue, s.N);
  arena.take(s.box, 6 * int64_t{s.G});
  arena.take(s.box_price, s.G);
  arena.take(s.box_label, s.G);
  arena.take(s.base, s.kWide ? wide : (s.G + 31) / 32 * 32);
}
template <class Id>
__host__ __device__ size_t equal_block_bytes(int64_t objects) {
  auto s = empty_state<EqualState<Id, Cost::kDistance>>(objects);
  Arena<16> arena(nullptr);
  take_arrays(s, arena);
  return arena.used();
}

// Of more objects than bidders: prices lie apart, as the coordinates may not fit shared memory.
template <Cost kCost>
struct UnequalState : IntegerState<int, kCost> {
  int* asked;       // [32 G] price
  int* last_group;  // [K] group of the last bid, or -1; of the whole cluster
  int* best;        // [K] best values as of the last pass; of the whole cluster

  __device__ __forceinline__ int bidders() const { return this->in->K; }
  __device__ __forceinline__ float4 bidder_at(int i) const { return this->bidder_in(i); }
  __device__ __forceinline__ int price(int j) const { return asked[j]; }
  __device__ __forceinline__ void set_price(int j, int price) const { asked[j] = price; }
  __device__ __forceinline__ float4 priced(int j) const {
    const float4 o = this->object[j];
    return make_float4(o.x, o.y, o.z, __int_as_float(asked[j]));
  }
  using IntegerState<int, kCost>::value;
  __device__ __forceinline__ int value(int j, float4 p) const { return value(priced(j), p); }
};

// Takes what a block has to itself, and what the whole cluster shares in global memory.
template <Cost kCost>
__host__ __device__ void take_arrays(UnequalState<kCost>& s, int64_t bidders, Arena<16>& arena) {
  arena.take(s.asked, int64_t{32} * s.G);
  arena.take(s.owner, int64_t{32} * s.G);
  arena.take(s.box, 6 * int64_t{s.G});
  arena.take(s.box_price, s.G);
  arena.take(s.queue, bidders);
}
template <Cost kCost>
__host__ __device__ void take_shared_arrays(UnequalState<kCost>& s, int64_t bidders,
                                            Arena<16>& arena) {
  arena.take(s.object, int64_t{32} * s.G);
  arena.take(s.sort_key, power_of_two_from(int64_t{32} * s.G));
  arena.take(s.last_group, bidders);
  arena.take(s.best, bidders);
}
__host__ __device__ inline size_t unequal_block_bytes(int64_t bidders, int64_t objects) {
  auto s = empty_state<UnequalState<Cost::kDistance>>(objects);
  Arena<16> arena(nullptr);
  take_arrays(s, bidders, arena);
  return arena.used();
}
__host__ __device__ inline size_t unequal_shared_bytes(int64_t bidders, int64_t objects) {
  auto s = empty_state<UnequalState<Cost::kDistance>>(objects);
  Arena<16> arena(nullptr);
  take_shared_arrays(s, bidders, arena);
  return arena.used();
}

}  // namespace pointloss
