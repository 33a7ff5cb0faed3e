// SPDX-License-Identifier: MIT
// The auction of the integer solver for unequal sizes (see assign_rectangular.cuh): its state, and
// synchronous rounds of bids.
//
// Objects lie along a Hilbert curve in groups of 32 with a bounding box and a least price each; a
// warp looks through the groups that may hold one of the two best. In a round the first kRoundBids
// bidders of the queue bid, a warp for each; the highest bid for an object wins, equal bids go to
// the lowest bidder. Values are blurred by up to eps / 4, in another way for each bidder and round,
// else a crowd would bid for the same object.
// Map: the blocks share out the bids of a round and send them to one another; then each applies all
// of them to its own prices and owners. So the result does not depend on how many blocks there are,
// and is the same bit for bit on every run.
#pragma once

#include "../common/assign.h"
#include "assign_load.cuh"

namespace pointloss {

// Bidders of a round; four blocks' warps.
constexpr int kRoundBids = 128;
// A bid pays at most this many eps more than is asked.
constexpr int kMostRaise = 2;
__host__ __device__ constexpr bool rectangular_serves(int64_t L, int64_t dim) {
  return dim <= 3 && L < (int64_t{1} << 26);
}

struct RectangularShared {
  SolverShared solver;
  int object[2][kRoundBids], price[2][kRoundBids];  // bids of an even and of an odd round
  int overflow[2];                                  // a price was too large
  int waiting[kRoundBids];                          // who has no object after a bid, or -1
  int waits, wins;
  unsigned long long stranded_sum;
  int highest;  // stranded price
};

// Arrays of a block beside those of the solver's state that it uses: owner, queue, boxes.
struct RectangularState {
  SolverState<int> s;
  int* price;  // [32 G] asked
  int* seed;   // [K] group of the last bid, or -1; of the whole team
  int* value;  // [K] best values as of the last pass; of the whole team
  int K;
};

// Lays out what lies in shared memory if it fits.
__host__ __device__ inline size_t lay_out(RectangularState& r, char* base) {
  size_t used = 0;
  const int64_t G = r.s.G;
  const auto take = [&](auto*& array, int64_t count) {
    array = reinterpret_cast<std::remove_reference_t<decltype(array)>>(base + used);
    used += (static_cast<size_t>(count) * sizeof(*array) + 15) / 16 * 16;
  };
  take(r.price, 32 * G);
  take(r.s.owner, 32 * G);
  take(r.s.box, 6 * G);
  take(r.s.box_price, G);
  take(r.s.queue, r.K);
  return used;
}

// Lays out what the team shares in global memory.
__host__ __device__ inline size_t lay_out_shared(RectangularState& r, char* base) {
  const int64_t wide = int64_t{32} * r.s.G;
  int64_t words = 1;
  while (words < wide) words *= 2;
  r.s.object = reinterpret_cast<float4*>(base);
  r.s.word = reinterpret_cast<unsigned long long*>(base + 16 * wide);
  r.seed = reinterpret_cast<int*>(base + 16 * wide + 8 * words);
  r.value = r.seed + r.K;
  return static_cast<size_t>(16 * wide + 8 * words + (8 * int64_t{r.K} + 15) / 16 * 16);
}

__host__ __device__ inline RectangularState rectangular_state(int64_t K, int64_t L) {
  RectangularState r{};
  r.K = static_cast<int>(K);
  r.s.N = static_cast<int>(L);
  r.s.G = static_cast<int>((L + 31) / 32);
  return r;
}

// Bytes for a block's arrays, and for all of a cloud with one block in global memory.
__host__ __device__ inline size_t rectangular_block_bytes(int64_t K, int64_t L) {
  RectangularState r = rectangular_state(K, L);
  return lay_out(r, nullptr);
}
__host__ __device__ inline size_t rectangular_bytes(int64_t K, int64_t L) {
  RectangularState r = rectangular_state(K, L);
  return lay_out_shared(r, nullptr) + lay_out(r, nullptr);
}

template <bool kSquared>
struct RectangularAuction {
  using Scan = Scanner<int, kSquared>;

  RectangularState& r;
  SolverState<int>& s;
  RectangularShared& shared;
  SolverShared& h;
  const SolverInput& in;
  int* order;                   // [L] object at position j of the curve
  int64_t rounds = 0, war = 0;  // war: bids won that a phase may take at its eps
  int eps = 1, parity = 0;

  __device__ __forceinline__ static float scale() {
    return static_cast<float>(1 << (kSquared ? kCostBits / 2 : kCostBits));
  }
  __device__ __forceinline__ static float4 point(const float* a, int64_t count, int64_t i,
                                                 int dim) {
    const auto at = [&](int d) { return d < dim ? a[d * count + i] * scale() : 0.0f; };
    return make_float4(at(0), at(1), at(2), 0.0f);
  }
  __device__ __forceinline__ float4 bidder(int i) const {
    return point(in.bidder, in.K, i, in.dim);
  }

  // Sorts the objects along the curve, fills the boxes. The first block sorts, the others wait.
  __device__ __forceinline__ void load() {
    if (s.team.rank == 0) {
      Loader<int, kSquared>{s, h, in, order}.sort_objects();
      for (int j = threadIdx.x; j < 32 * s.G; j += kSolverThreads) {
        const int k = static_cast<int>(s.word[min(j, in.N - 1)] & 0xffffffffu);
        if (j < in.N) order[j] = k;
        s.object[j] = point(in.object, in.N, k, in.dim);
      }
      for (int i = threadIdx.x; i < r.K; i += kSolverThreads) r.seed[i] = -1;
    }
    s.team.sync();
    for (int g = threadIdx.x / 32; g < s.G; g += kSolverWarps) {
      const float4 o = s.object[g * 32 + threadIdx.x % 32];
      const float at[3] = {o.x, o.y, o.z};
      for (int d = 0; d < 3; ++d) {
        float low = at[d], high = at[d];
        for (int offset = 16; offset > 0; offset /= 2) {
          low = fminf(low, __shfl_xor_sync(kWholeWarp, low, offset));
          high = fmaxf(high, __shfl_xor_sync(kWholeWarp, high, offset));
        }
        if (threadIdx.x % 32 == 0) s.box[d * s.G + g] = low, s.box[(3 + d) * s.G + g] = high;
      }
    }
    for (int q = threadIdx.x; q < kRoundBids; q += kSolverThreads) {
      shared.object[0][q] = shared.object[1][q] = INT_MIN;
      shared.price[0][q] = shared.price[1][q] = INT_MIN;
    }
    if (threadIdx.x < 2) shared.overflow[threadIdx.x] = 0;
    s.team.sync();  // none sends a bid before all are ready
  }

  // Sets every price to price_at(position) and forgets the owners.
  template <class Price>
  __device__ __forceinline__ void restart(Price price_at) {
    __syncthreads();
    for (int j = threadIdx.x; j < 32 * s.G; j += kSolverThreads) {
      r.price[j] = j < in.N ? price_at(j) : kFar;
      s.owner[j] = -1;
    }
    refresh_boxes();
  }

  __device__ __forceinline__ void refresh_boxes() {
    __syncthreads();
    for (int g = threadIdx.x / 32; g < s.G; g += kSolverWarps) refresh_box(g);
    __syncthreads();
  }
  __device__ __forceinline__ void refresh_box(int g) {
    const int least = warp_min(r.price[g * 32 + threadIdx.x % 32]);
    if (threadIdx.x % 32 == 0) s.box_price[g] = least;
  }

  // The two best values that a lane has seen, and the object of the best.
  struct Lane {
    int first = INT_MAX, second = INT_MAX, object = 0;
    __device__ __forceinline__ void take(int value, int j) {
      second = min(second, max(first, value));
      object = value < first ? j : object;
      first = min(first, value);
    }
  };

  // Makes every value larger by less than `size`, another amount for each bidder in each round.
  struct Noise {
    unsigned salt, size;
    __device__ __forceinline__ int of(int j) const {
      unsigned a = (static_cast<unsigned>(j) ^ salt) * 0x9e3779b1u;
      a = (a ^ (a >> 15)) * 0x85ebca6bu;
      return static_cast<int>(__umulhi(a, size));
    }
  };

  __device__ __forceinline__ int nearest_group(const float4& p) const {
    int nearest = INT_MAX, group = 0;
    for (int g = threadIdx.x % 32; g < s.G; g += 32) {
      const int least = Scan::group_bound(s, g, p);
      if (least < nearest) nearest = least, group = g;
    }
    return Scan::warp_top(nearest, group, INT_MAX).object;
  }

  // The best object of bidder i, its value and the second-best value; the last exact only where
  // less than `width` above the best.
  __device__ __noinline__ Top look(int i, const float4& p, int width, Noise noise) const {
    const int lane = threadIdx.x % 32;
    const auto value = [&](int j) { return Scan::cost(s.object[j], p) + r.price[j] + noise.of(j); };
    int start = load_fresh(r.seed + i);
    if (start < 0) start = nearest_group(p);
    Lane top;
    top.take(value(start * 32 + lane), start * 32 + lane);
    int limit = warp_min(top.first) + width;
    for (int g0 = 0; g0 < s.G; g0 += 32) {
      const int g = g0 + lane;
      const bool within = g < s.G && g != start && Scan::group_bound(s, g, p) < limit;
      unsigned groups = __ballot_sync(kWholeWarp, within);
      if (groups == 0) continue;
      while (groups != 0) {
        const int j = (g0 + __ffs(groups) - 1) * 32 + lane;
        groups &= groups - 1;
        const int k = groups != 0 ? (g0 + __ffs(groups) - 1) * 32 + lane : -1;
        groups &= groups - 1;
        const int vj = value(j), vk = k >= 0 ? value(k) : INT_MAX;
        top.take(vj, j);
        top.take(vk, k);
      }
      limit = min(limit, warp_min(top.first) + width);
    }
    return Scan::warp_top(top.first, top.object, top.second);
  }

  // Bids for bidder i, which is number q of this round.
  __device__ __forceinline__ void bid(int i, int q) {
    const unsigned salt =
        static_cast<unsigned>(i) * 0x85ebca77u ^ static_cast<unsigned>(rounds) * 0xc2b2ae3du;
    const Noise noise{salt, static_cast<unsigned>(eps) / 4 + 1};
    const Top top = look(i, bidder(i), kMostRaise * eps, noise);
    const int price =
        r.price[top.object] + min(max(top.second - top.best, 0), kMostRaise * eps) + eps;
    if (threadIdx.x % 32 == 0) r.seed[i] = top.object / 32;
    if (price > kPriceLimit) s.team.raise(&shared.overflow[parity], 1);
    s.team.raise(&shared.object[parity][q], top.object);
    s.team.raise(&shared.price[parity][q], price);
  }

  // Applies the bids of a round: one warp a bid, then the queue.
  __device__ __forceinline__ void apply(int head, int bids, int behind) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int *objects = shared.object[parity], *prices = shared.price[parity];
    const auto bidder_at = [&](int q) { return s.queue[(head + q) % r.K]; };
    for (int q = warp; q < bids; q += kSolverWarps) {
      const int i = bidder_at(q), j = objects[q], price = prices[q];
      bool beaten = false;
      for (int other = lane; other < bids; other += 32) {
        const bool higher =
            prices[other] > price || (prices[other] == price && bidder_at(other) < i);
        beaten |= objects[other] == j && higher;
      }
      const bool lost = __ballot_sync(kWholeWarp, beaten) != 0;
      if (lane != 0) continue;
      shared.waiting[q] = lost ? i : s.owner[j];
      if (!lost) s.owner[j] = i, r.price[j] = price;
    }
    __syncthreads();
    for (int q = warp; q < bids; q += kSolverWarps) refresh_box(objects[q] / 32);
    if (warp == 0) {
      int waits = 0, wins = 0;
      for (int q0 = 0; q0 < bids; q0 += 32) {
        const int i = q0 + lane < bids ? shared.waiting[q0 + lane] : -1;
        const unsigned mask = __ballot_sync(kWholeWarp, i >= 0);
        const int at = head + bids + behind + waits + rank_in(mask);
        const bool won = q0 + lane < bids && i != bidder_at(q0 + lane);
        wins += __popc(__ballot_sync(kWholeWarp, won));
        __syncwarp();  // all lanes have read bidder_at(), whose places come round again
        if (i >= 0) s.queue[at % r.K] = i;
        waits += __popc(mask);
      }
      if (lane == 0) shared.waits = waits, shared.wins = wins;
    }
    __syncthreads();
    for (int q = threadIdx.x; q < bids; q += kSolverThreads) {
      shared.object[parity][q] = shared.price[parity][q] = INT_MIN;
    }
  }

  // Lets all bidders bid until each owns an object. False: a bound was hit.
  __device__ __forceinline__ bool auction() {
    __syncthreads();
    for (int i = threadIdx.x; i < r.K; i += kSolverThreads) s.queue[i] = i;
    __syncthreads();
    int head = 0, count = r.K;
    int64_t wins = 0;
    while (count > 0) {
      if (rounds >= in.round_limit) return false;
      if (wins > war) {  // a price war that eps is too small for
        eps = min(static_cast<int>(kAssignTheta * kAssignTheta) * min(eps, kRaiseLimit / 32),
                  kRaiseLimit);
        wins = 0;
        war *= 2;
      }
      const int now = min(count, kRoundBids);
      for (int q = static_cast<int>(threadIdx.x) / 32 * s.team.size + s.team.rank; q < now;
           q += kSolverWarps * s.team.size) {
        bid(s.queue[(head + q) % r.K], q);
      }
      s.team.sync();
      if (shared.overflow[parity] != 0) return false;
      apply(head, now, count - now);
      head = (head + now) % r.K;
      count += shared.waits - now;
      wins += shared.wins;
      parity ^= 1;
      ++rounds;
    }
    return true;
  }

  // Takes back by how much the last bid for an object left it dearer than was paid.
  __device__ __forceinline__ void settle() {
    for (int j = threadIdx.x; j < in.N; j += kSolverThreads) {
      if (s.owner[j] >= 0) r.price[j] = max(r.price[j] - eps, 0);
    }
    refresh_boxes();
  }
};

}  // namespace pointloss
