// SPDX-License-Identifier: MIT
// pointloss::nearest on CUDA: check, allocate, launch on the caller's device and stream.
#include <torch/csrc/stable/library.h>

#include <tuple>
#include <utility>

#include "launch.cuh"
#include "nearest_kernel.cuh"

namespace pointloss {
namespace {

template <int kNorm, class T>
void launch_nearest(const NearestParams<T>& p, cudaStream_t stream) {
  const unsigned grid = grid_size(p.B * ceil_div(p.N, kThreads));
  if (grid == 0) return;
  auto* kernel = p.D == 3   ? &nearest_kernel<kNorm, 3, T>
                 : p.D == 2 ? &nearest_kernel<kNorm, 2, T>
                            : &nearest_kernel<kNorm, 0, T>;
  kernel<<<grid, kThreads, 0, stream>>>(p);
  check_launch("nearest_kernel");
}

// Neighbours in y of the rows of x.
template <class T>
std::pair<Tensor, Tensor> one_way(const Tensor& x, const Tensor& y, const int64_t* x_lengths,
                                  const int64_t* y_lengths, int64_t norm, const Clouds& size) {
  Tensor dist = torch::stable::new_empty(x, {x.size(0), x.size(1)});
  Tensor idx = torch::stable::new_empty(x, {x.size(0), x.size(1)}, ScalarType::Long);
  const NearestParams<T> params{x.const_data_ptr<T>(),
                                y.const_data_ptr<T>(),
                                x_lengths,
                                y_lengths,
                                dist.mutable_data_ptr<T>(),
                                idx.mutable_data_ptr<int64_t>(),
                                size.B,
                                x.size(1),
                                y.size(1),
                                size.D};
  const cudaStream_t stream = current_stream(x.get_device_index());
  if (norm == 1) {
    launch_nearest<1>(params, stream);
  } else {
    launch_nearest<2>(params, stream);
  }
  return {dist, idx};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> nearest_cuda(Tensor x, Tensor y,
                                                        std::optional<Tensor> x_lengths,
                                                        std::optional<Tensor> y_lengths,
                                                        int64_t norm, bool both) {
  const Clouds size = check_clouds(x, y);
  STD_TORCH_CHECK(norm == 1 || norm == 2, "norm must be 1 or 2");
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  const auto n = check_lengths(x_lengths, x), m = check_lengths(y_lengths, x);
  const auto *n_data = data_or_null<int64_t>(n), *m_data = data_or_null<int64_t>(m);
  const Tensor a = torch::stable::contiguous(x), b = torch::stable::contiguous(y);
  auto* run = x.scalar_type() == ScalarType::Float ? &one_way<float> : &one_way<double>;
  const auto [dist_x, idx_x] = run(a, b, n_data, m_data, norm, size);
  if (!both) {
    return {dist_x, idx_x, torch::stable::new_empty(a, {size.B, 0}),
            torch::stable::new_empty(a, {size.B, 0}, ScalarType::Long)};
  }
  const auto [dist_y, idx_y] = run(b, a, m_data, n_data, norm, size);
  return {dist_x, idx_x, dist_y, idx_y};
}

}  // namespace
}  // namespace pointloss

STABLE_TORCH_LIBRARY_IMPL(pointloss, CUDA, m) {
  m.impl("nearest", TORCH_BOX(&pointloss::nearest_cuda));
}
