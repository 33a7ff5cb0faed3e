// SPDX-License-Identifier: MIT
// The distance between two points: one definition, so that CPU and CUDA agree bit for bit.
#pragma once

#include <cmath>
#include <cstdint>

#include "macros.h"

namespace pointloss {

// Squared euclidean distance for kNorm 2, sum of absolute differences for kNorm 1.
// Differences are taken first and accumulated in the order of the axes, each square by one fused
// multiply-add: nothing is left for a compiler to contract, and clouds far from the origin lose
// nothing (x^2 - 2xy + y^2 would). kDim 0 reads the dimension from `dim`. `b` may be strided.
template <int kNorm, int kDim, class T>
POINTLOSS_HD T distance(const T* a, const T* b, int64_t b_stride, int64_t dim) {
  const int64_t dims = kDim > 0 ? kDim : dim;
  T diff = a[0] - b[0];
  T sum = kNorm == 1 ? std::fabs(diff) : diff * diff;
  for (int64_t k = 1; k < dims; ++k) {
    diff = a[k] - b[k * b_stride];
    sum = kNorm == 1 ? sum + std::fabs(diff) : std::fma(diff, diff, sum);
  }
  return sum;
}

// Derivative of distance() along one axis, by the difference a - b there; 0 at difference 0.
template <int kNorm, class T>
POINTLOSS_HD T distance_slope(T diff) {
  return kNorm == 1 ? T(diff > 0) - T(diff < 0) : 2 * diff;
}

// A point with a NaN coordinate is nobody's neighbour and has none.
template <class T>
POINTLOSS_HD bool has_nan(const T* a, int64_t dim) {
  bool found = false;
  for (int64_t k = 0; k < dim; ++k) found |= a[k] != a[k];
  return found;
}

// Valid points of a cloud of capacity `size`: all without lengths, -1 for a length out of range,
// which every op answers with NaN instead of reading outside the cloud.
POINTLOSS_HD int64_t valid_length(const int64_t* lengths, int64_t b, int64_t size) {
  if (lengths == nullptr) return size;
  return lengths[b] < 0 || lengths[b] > size ? -1 : lengths[b];
}

}  // namespace pointloss
