// SPDX-License-Identifier: MIT
// The value of a matching and the gradient of its distances. Torch-free.
#pragma once

#include <cmath>

#include "reduction.h"

namespace pointloss {

// Every pointer is a contiguous array.
template <class T>
struct EmdMatching {
  const T* x;          // [B, N, D]
  const T* y;          // [B, M, D]
  const int64_t* idx;  // [B, N] into y, an injection; -1 for a point without partner
  const double* cost;  // [B], the pairs' mean; NaN where the matching could not be judged
  Share share[2];      // by the points of x and of y; the smaller cloud counts the pairs
  bool squared;
  int64_t B, N, M, D;

  // Squared distance of point i of cloud b to its partner j. In double, so that a float's square
  // neither overflows nor vanishes.
  POINTLOSS_HD double sqdist(int64_t b, int64_t i, int64_t j) const {
    const T *row = x + (b * N + i) * D, *partner = y + (b * M + j) * D;
    double sum = 0;
    for (int64_t k = 0; k < D; ++k) {
      const double diff = static_cast<double>(row[k]) - partner[k];
      sum = std::fma(diff, diff, sum);
    }
    return sum;
  }
};

template <class T>
struct EmdValue : EmdMatching<T> {
  const bool* converged;  // [B]
  T* value;               // of each point of x, of each cloud, or one
  bool* missed;           // set where a matching that could be judged has not converged, or null
};

// Sets `missed` if cloud b could be judged and has not converged.
template <class T>
POINTLOSS_HD void emd_tell(const EmdValue<T>& p, int64_t b) {
  if (p.missed != nullptr && !p.converged[b] && p.cost[b] < INFINITY) *p.missed = true;
}

// What cloud b adds to a sum over the batch.
template <class T>
POINTLOSS_HD double emd_of_cloud(const EmdValue<T>& p, int64_t b) {
  const Share &x = p.share[0], &y = p.share[1];
  if (x.mean) return p.cost[b] * x.factor;
  const double n = static_cast<double>(valid_length(x.lengths, b, x.size));
  const double m = static_cast<double>(valid_length(y.lengths, b, y.size));
  return p.cost[b] * std::fmax(std::fmin(n, m), 1.0) * x.factor;
}

// The distance of point i of cloud b to its partner, 0 without one. What concerns the whole cloud
// only the cost tells: NaN, and infinity beside an empty one.
template <class T>
POINTLOSS_HD void emd_of_point(const EmdValue<T>& p, int64_t b, int64_t i) {
  const int64_t row = b * p.N + i, j = p.idx[row];
  double dist = 0;
  if (!(p.cost[b] < INFINITY)) {
    dist = p.cost[b];
  } else if (Neighbour(j, p.M).found) {
    dist = p.squared ? p.sqdist(b, i, j) : std::sqrt(p.sqdist(b, i, j));
  }
  p.value[row] = static_cast<T>(dist);
}

// A cloud with a NaN cost has no gradient.
template <class T>
struct EmdBackward : EmdMatching<T> {
  const T* grad;      // for pair i of cloud b at b * stride[0] + i * stride[1]
  int64_t stride[2];  // 0 where pairs or clouds share one
  T* grad_x;          // [B, N, D] or null
  T* grad_y;          // [B, M, D], or null; zeroed where a point of y may have no partner

  // Whether one may, although the matching could be judged.
  bool leaves_some() const {
    return this->M > this->N || this->share[0].lengths != nullptr ||
           this->share[1].lengths != nullptr;
  }
};

// Writes what point i of x in cloud b and its partner get, or where the matching could not be
// judged point i of y: nobody else writes there. The plain distance has slope 0 at 0.
template <class T>
POINTLOSS_HD void emd_backward_row(const EmdBackward<T>& p, int64_t b, int64_t i) {
  const int64_t row = (b * p.N + i) * p.D, j = p.idx[b * p.N + i];
  const bool judged = p.cost[b] == p.cost[b];
  if (!judged && p.grad_y != nullptr && i < p.M) {
    for (int64_t k = 0; k < p.D; ++k) p.grad_y[(b * p.M + i) * p.D + k] = T(0);
  }
  if (!judged || !Neighbour(j, p.M).found) {
    for (int64_t k = 0; k < p.D && p.grad_x != nullptr; ++k) p.grad_x[row + k] = T(0);
    return;
  }
  const int64_t partner = (b * p.M + j) * p.D;
  const double sum = p.sqdist(b, i, j);
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
