// SPDX-License-Identifier: MIT
// The gradient of a matching's distances. Torch-free.
#pragma once

#include <cmath>

#include "reduction.h"

namespace pointloss {

// Every pointer but `grad` is a contiguous array.
template <class T>
struct EmdBackward {
  const T* x;          // [B, N, D]
  const T* y;          // [B, M, D]
  const int64_t* idx;  // [B, N] into y, an injection; -1 for a point without partner
  const double* cost;  // [B]; NaN where the matching could not be judged: no gradient there
  const T* grad;       // for pair i of cloud b at b * stride[0] + i * stride[1]
  int64_t stride[2];   // 0 where pairs or clouds share one
  Share share[2];      // by the points of x and of y; the smaller cloud counts the pairs
  bool squared;
  int64_t B, N, M, D;
  T* grad_x;  // [B, N, D] or null
  T* grad_y;  // [B, M, D], zeroed, or null
};

// Writes what point i of x in cloud b and its partner get: nobody else writes there. In double, so
// that a float's square neither overflows nor vanishes. The plain distance has slope 0 at 0.
template <class T>
POINTLOSS_HD void emd_backward_row(const EmdBackward<T>& p, int64_t b, int64_t i) {
  const int64_t row = (b * p.N + i) * p.D, j = p.idx[b * p.N + i];
  if (!Neighbour(j, p.M).found || p.cost[b] != p.cost[b]) {
    for (int64_t k = 0; k < p.D && p.grad_x != nullptr; ++k) p.grad_x[row + k] = T(0);
    return;
  }
  const int64_t partner = (b * p.M + j) * p.D;
  double sum = 0;
  for (int64_t k = 0; k < p.D; ++k) {
    const double diff = static_cast<double>(p.x[row + k]) - p.y[partner + k];
    sum = std::fma(diff, diff, sum);
  }
  const double share =
      std::fmax(p.share[0].template of<double>(b), p.share[1].template of<double>(b));
  const double given = p.grad[b * p.stride[0] + i * p.stride[1]] * share;
  const double scale = p.squared ? 2 * given : sum > 0 ? given / std::sqrt(sum) : 0;
  for (int64_t k = 0; k < p.D; ++k) {
    const T term = static_cast<T>(scale * (static_cast<double>(p.x[row + k]) - p.y[partner + k]));
    if (p.grad_x != nullptr) p.grad_x[row + k] = term;
    if (p.grad_y != nullptr) p.grad_y[partner + k] = -term;
  }
}

}  // namespace pointloss
