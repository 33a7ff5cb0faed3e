// SPDX-License-Identifier: MIT
// The k nearest points that a warp has found for its query, sorted, in the registers of its lanes.
//
// Place p of the list is slot p / 32 of lane p % 32, so that 32 kSlots places take 2 kSlots
// registers of a lane (3 for double). A point is inserted by all lanes: a ballot counts the places
// that come before it, and those behind it move one lane up (WarpSelect without its thread queues:
// Johnson, Douze and Jegou 2017). Which points are inserted does not depend on their order: the
// list holds the least pairs (distance, index), so ties go to the lowest index.
#pragma once

#include <climits>

#include "../../shared/warp.cuh"

namespace pointloss {

template <int kSlots, class T>
struct WarpList {
  T dist[kSlots];  // inf, with index -1, where there is none yet
  int index[kSlots];
  int k;
  T worst;          // distance and index of place k - 1, the same in all lanes
  int worst_index;  // -1 where there is none: nothing at distance inf is taken

  // k > 32 (kSlots - 1), so that the last slot holds place k - 1.
  __device__ __forceinline__ explicit WarpList(int neighbours) : k(neighbours) {
#pragma unroll
    for (int s = 0; s < kSlots; ++s) dist[s] = INFINITY, index[s] = -1;
    worst = INFINITY, worst_index = -1;
  }

  // False for NaN. By one lane or all.
  __device__ __forceinline__ bool wants(T d, int i) const {
    return d < worst || (d == worst && i < worst_index);
  }

  // The same d and i in all lanes, which call it together.
  __device__ __forceinline__ void insert(T d, int i) {
    const int lane = threadIdx.x % 32;
    int place = 0;
#pragma unroll
    for (int s = 0; s < kSlots; ++s) {
      const bool before = dist[s] < d || (dist[s] == d && index[s] < i);
      place += __popc(__ballot_sync(kWholeWarp, before));
    }
#pragma unroll
    for (int s = kSlots - 1; s >= 0; --s) {
      T other = __shfl_up_sync(kWholeWarp, dist[s], 1);
      int other_index = __shfl_up_sync(kWholeWarp, index[s], 1);
      if (s > 0) {
        const T last = __shfl_sync(kWholeWarp, dist[s > 0 ? s - 1 : 0], 31);
        const int last_index = __shfl_sync(kWholeWarp, index[s > 0 ? s - 1 : 0], 31);
        if (lane == 0) other = last, other_index = last_index;
      }
      const int own = 32 * s + lane;
      if (own > place) dist[s] = other, index[s] = other_index;
      if (own == place) dist[s] = d, index[s] = i;
    }
    worst = __shfl_sync(kWholeWarp, dist[kSlots - 1], (k - 1) % 32);
    worst_index = __shfl_sync(kWholeWarp, index[kSlots - 1], (k - 1) % 32);
  }

  // A point of each lane; d is NaN or inf in a lane without one. All lanes call it.
  __device__ __forceinline__ void offer(T d, int i) {
    unsigned wanted = __ballot_sync(kWholeWarp, wants(d, i));
    while (wanted != 0) {
      const int lane = __ffs(wanted) - 1;
      insert(__shfl_sync(kWholeWarp, d, lane), __shfl_sync(kWholeWarp, i, lane));
      wanted &= ~(1u << lane) & __ballot_sync(kWholeWarp, wants(d, i));
    }
  }

  // The row [k] of the answer.
  __device__ __forceinline__ void store(T* row, int64_t* index_row) const {
#pragma unroll
    for (int s = 0; s < kSlots; ++s) {
      const int place = 32 * s + threadIdx.x % 32;
      if (place < k) row[place] = dist[s], index_row[place] = index[s];
    }
  }
};

// A row [k] that no search answers.
template <class T>
__device__ __forceinline__ void store_none(int k, T value, T* row, int64_t* index_row) {
  for (int place = threadIdx.x % 32; place < k; place += 32) {
    row[place] = value, index_row[place] = -1;
  }
}

}  // namespace pointloss
