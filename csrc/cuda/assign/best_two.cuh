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
    const bool better = value < best;
    const S larger = better ? best : value;
    second = larger < second ? larger : second;
    object = better ? j : object;
    best = better ? value : best;
  }
};

}  // namespace pointloss
