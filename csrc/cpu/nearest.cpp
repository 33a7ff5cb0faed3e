// SPDX-License-Identifier: MIT
// pointloss::nearest on the CPU: check, allocate, share the rows among the threads.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <tuple>
#include <utility>

#include "../common/checks.h"
#include "nearest_kernel.h"

namespace pointloss {
namespace {

// Pairs that one task should at least have, so that starting it costs little beside it.
constexpr int64_t kPairsPerTask = 1 << 16;

template <int kNorm, int kDim, class T>
void nearest_batch(const Tensor& x, const Tensor& y_t, const int64_t* x_lengths,
                   const int64_t* y_lengths, Tensor& dist, Tensor& idx) {
  const int64_t N = x.size(1), D = x.size(2), M = y_t.size(2);
  const T* x_data = x.const_data_ptr<T>();
  const T* y_data = y_t.const_data_ptr<T>();
  T* dist_data = dist.mutable_data_ptr<T>();
  int64_t* idx_data = idx.mutable_data_ptr<int64_t>();
  const int64_t grain = std::max<int64_t>(1, kPairsPerTask / std::max<int64_t>(1, M));
  torch::stable::parallel_for(0, x.size(0) * N, grain, [&](int64_t begin, int64_t end) {
    while (begin < end) {  // a range of rows may span several clouds
      const int64_t b = begin / N, first = begin % N;
      const int64_t last = std::min(N, first + end - begin);
      const int64_t n = valid_length(x_lengths, b, N), m = valid_length(y_lengths, b, M);
      T* d = dist_data + b * N;
      int64_t* i = idx_data + b * N;
      const bool bad = n < 0 || m < 0;
      const int64_t valid_last = bad ? first : std::max(first, std::min(n, last));
      nearest_rows_dispatch<kNorm, kDim>(x_data + b * N * D, first, valid_last, y_data + b * D * M,
                                         M, m, D, d, i);
      std::fill(d + valid_last, d + last, bad ? std::numeric_limits<T>::quiet_NaN() : T(0));
      std::fill(i + valid_last, i + last, int64_t{-1});
      begin += last - first;
    }
  });
}

template <int kNorm, class T>
void nearest_dim(const Tensor& x, const Tensor& y_t, const int64_t* x_lengths,
                 const int64_t* y_lengths, Tensor& dist, Tensor& idx) {
  const int64_t D = x.size(2);
  auto* run = D == 3   ? &nearest_batch<kNorm, 3, T>
              : D == 2 ? &nearest_batch<kNorm, 2, T>
                       : &nearest_batch<kNorm, 0, T>;
  run(x, y_t, x_lengths, y_lengths, dist, idx);
}

// Neighbours in y of the rows of x.
std::pair<Tensor, Tensor> one_way(const Tensor& x, const Tensor& y, const int64_t* x_lengths,
                                  const int64_t* y_lengths, int64_t norm) {
  Tensor y_copy = y;  // transpose() takes a mutable reference but changes nothing
  const Tensor y_t = torch::stable::contiguous(torch::stable::transpose(y_copy, 1, 2));
  Tensor dist = torch::stable::new_empty(x, {x.size(0), x.size(1)});
  Tensor idx = torch::stable::new_empty(x, {x.size(0), x.size(1)}, ScalarType::Long);
  const bool single = x.scalar_type() == ScalarType::Float;
  auto* run = norm == 1 ? (single ? &nearest_dim<1, float> : &nearest_dim<1, double>)
                        : (single ? &nearest_dim<2, float> : &nearest_dim<2, double>);
  run(x, y_t, x_lengths, y_lengths, dist, idx);
  return {dist, idx};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> nearest_cpu(Tensor x, Tensor y,
                                                       std::optional<Tensor> x_lengths,
                                                       std::optional<Tensor> y_lengths,
                                                       int64_t norm, bool both) {
  const Clouds size = check_clouds(x, y);
  STD_TORCH_CHECK(norm == 1 || norm == 2, "norm must be 1 or 2");
  const auto n = check_lengths(x_lengths, x), m = check_lengths(y_lengths, x);
  const auto *n_data = data_or_null<int64_t>(n), *m_data = data_or_null<int64_t>(m);
  const Tensor a = torch::stable::contiguous(x), b = torch::stable::contiguous(y);
  const auto [dist_x, idx_x] = one_way(a, b, n_data, m_data, norm);
  if (!both) {
    return {dist_x, idx_x, torch::stable::new_empty(a, {size.B, 0}),
            torch::stable::new_empty(a, {size.B, 0}, ScalarType::Long)};
  }
  const auto [dist_y, idx_y] = one_way(b, a, m_data, n_data, norm);
  return {dist_x, idx_x, dist_y, idx_y};
}

}  // namespace
}  // namespace pointloss

STABLE_TORCH_LIBRARY_IMPL(pointloss, CPU, m) {
  m.impl("nearest", TORCH_BOX(&pointloss::nearest_cpu));
}
