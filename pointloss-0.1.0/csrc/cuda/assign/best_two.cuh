// SPDX-License-Identifier: MIT
// The best object of a bidder and the second-best value, as every auction needs them for a bid.
#pragma once

namespace pointloss {

template <typename S>
struct BestTwo {
  S best, second;
  int object;

  // On a tie the object that came first stays.
  __device__ __forceinline__ void take(S value, int j) {
    object = value < best ? j : object;
    second = min(second, max(best, value));
    best = min(best, value);
  }
};

}  // namespace pointloss
