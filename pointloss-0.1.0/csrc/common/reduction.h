// SPDX-License-Identifier: MIT
// How distances enter a reduced value, and how that value's gradient reaches them. Torch-free.
#pragma once

#include <cmath>

#include "distance.h"

namespace pointloss {

// What each distance of cloud b counts in a sum over points and clouds.
struct Share {
  double factor;           // of all of them
  bool mean;               // divided by the cloud's valid points, at least 1
  const int64_t* lengths;  // [B] or null
  int64_t size;            // points of a cloud with its padding

  // NaN for a length out of range.
  template <class T>
  POINTLOSS_HD T of(int64_t b) const {
    const int64_t count = valid_length(lengths, b, size);
    if (count < 0) return T(NAN);
    return mean && count > 1 ? T(factor) / T(count) : T(factor);
  }
};

// A row's neighbour among `size` points, by an index that its owner may have changed.
struct Neighbour {
  bool found, absent;

  POINTLOSS_HD Neighbour(int64_t idx, int64_t size)
      : found(static_cast<uint64_t>(idx) < static_cast<uint64_t>(size)), absent(idx == -1) {}

  // The gradient of a row that has none: NaN, so that the loss shows it, for an index out of range.
  template <class T>
  POINTLOSS_HD T otherwise() const {
    return absent ? T(0) : T(NAN);
  }
};

// The gradient of each distance of one direction.
struct DistanceGradient {
  const void* grad;   // for row i of cloud b at b * stride[0] + i * stride[1]; null for no gradient
  int64_t stride[2];  // 0 where rows or clouds share one
  Share share;
  bool root;  // it is that of the distance's root, whose slope at 0 is taken as 0

  // Of a row and its neighbour.
  template <int kNorm, int kDim, class T>
  POINTLOSS_HD T at(int64_t b, int64_t i, const T* row, const T* neighbour, int64_t dim) const {
    const T given = static_cast<const T*>(grad)[b * stride[0] + i * stride[1]] * share.of<T>(b);
    if (!root) return given;
    const T dist = distance<kNorm, kDim>(row, neighbour, 1, dim);
    return dist > 0 ? given / (2 * std::sqrt(dist)) : T(0);
  }
};

}  // namespace pointloss
