// SPDX-License-Identifier: MIT
// pointloss::nearest on CUDA: check, allocate, launch on the caller's device and stream.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <tuple>
#include <utility>

#include "launch.cuh"
#include "nearest_kernel.cuh"
#include "nearest_small.cuh"
#include "nearest_tree.cuh"

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
  Tensor dist = new_tensor(x, {x.size(0), x.size(1)}, x.scalar_type());
  Tensor idx = new_tensor(x, {x.size(0), x.size(1)}, ScalarType::Long);
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

using Neighbours = std::tuple<Tensor, Tensor, Tensor, Tensor>;

Neighbours search_brute(const Tensor& x, const Tensor& y, const int64_t* x_lengths,
                        const int64_t* y_lengths, int64_t norm, bool both, const Clouds& size) {
  auto* run = x.scalar_type() == ScalarType::Float ? &one_way<float> : &one_way<double>;
  const auto [dist_x, idx_x] = run(x, y, x_lengths, y_lengths, norm, size);
  if (!both) {
    return {dist_x, idx_x, new_tensor(x, {size.B, 0}, x.scalar_type()),
            new_tensor(x, {size.B, 0}, ScalarType::Long)};
  }
  const auto [dist_y, idx_y] = run(y, x, y_lengths, x_lengths, norm, size);
  return {dist_x, idx_x, dist_y, idx_y};
}

void check_started(cudaError_t error) {
  STD_TORCH_CHECK(error == cudaSuccess,
                  "pointloss: launching nearest: ", cudaGetErrorString(error));
}

// Both directions share one launch (small clouds) or one build (large ones).
Neighbours search_tree(const Tensor& x, const Tensor& y, const int64_t* x_lengths,
                       const int64_t* y_lengths, bool both, const Clouds& size) {
  const int64_t columns = both ? size.M : 0;
  Tensor dist_x = new_tensor(x, {size.B, size.N}, x.scalar_type());
  Tensor idx_x = new_tensor(x, {size.B, size.N}, ScalarType::Long);
  Tensor dist_y = new_tensor(x, {size.B, columns}, x.scalar_type());
  Tensor idx_y = new_tensor(x, {size.B, columns}, ScalarType::Long);
  const NearestPairParams params{x.const_data_ptr<float>(),
                                 y.const_data_ptr<float>(),
                                 x_lengths,
                                 y_lengths,
                                 dist_x.mutable_data_ptr<float>(),
                                 idx_x.mutable_data_ptr<int64_t>(),
                                 both ? dist_y.mutable_data_ptr<float>() : nullptr,
                                 both ? idx_y.mutable_data_ptr<int64_t>() : nullptr,
                                 size.B,
                                 size.N,
                                 size.M};
  const cudaStream_t stream = current_stream(x.get_device_index());
  cudaError_t error;
  if (nearest_small_supports(size.N, size.M)) {
    error = launch_nearest_small(params, stream);
  } else {
    const auto bytes = static_cast<int64_t>(nearest_tree_workspace(size.B, size.N, size.M));
    const Tensor workspace = new_tensor(x, {bytes}, ScalarType::Byte);
    error = launch_nearest_tree(params, workspace.mutable_data_ptr(), stream);
  }
  check_started(error);
  return {dist_x, idx_x, dist_y, idx_y};
}

// Below this many points in the larger cloud brute force is as fast, and below this many in the
// smaller one it reads the larger only once or twice anyway.
constexpr int64_t kTreeFrom = 256, kTreeFromSmaller = 32;

Neighbours nearest_cuda(Tensor x, Tensor y, std::optional<Tensor> x_lengths,
                        std::optional<Tensor> y_lengths, int64_t norm, bool both,
                        std::string method) {
  const Clouds size = check_clouds(x, y);
  STD_TORCH_CHECK(norm == 1 || norm == 2, "norm must be 1 or 2");
  const Method how = check_method(method);
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  const auto n = check_lengths(x_lengths, x), m = check_lengths(y_lengths, x);
  const auto *n_data = data_or_null<int64_t>(n), *m_data = data_or_null<int64_t>(m);
  const Tensor a = dense(x), b = dense(y);
  const bool possible = x.scalar_type() == ScalarType::Float && size.D == 3 && norm == 2;
  STD_TORCH_CHECK(how != Method::kTree || possible,
                  "method tree needs float32, D = 3 and norm 2 on CUDA");
  const bool worth_it = std::max(size.N, size.M) >= kTreeFrom &&
                        std::min(size.N, size.M) >= kTreeFromSmaller &&
                        nearest_tree_supports(size.B, size.N, size.M);
  if (how == Method::kTree || (how == Method::kAuto && possible && worth_it)) {
    return search_tree(a, b, n_data, m_data, both, size);
  }
  return search_brute(a, b, n_data, m_data, norm, both, size);
}

// Bytes of the trees of all y, 0 where there are none.
int64_t index_bytes(const Tensor& y) {
  const int64_t B = y.size(0), M = y.size(1);
  const bool possible = y.scalar_type() == ScalarType::Float && y.size(2) == 3;
  if (!possible || M < kTreeFrom || !nearest_tree_supports(B, 0, M)) return 0;
  return static_cast<int64_t>(nearest_tree_workspace(B, 0, M));
}

Tensor nearest_index_cuda(Tensor y, std::optional<Tensor> y_lengths) {
  check_clouds(y, y);
  const torch::stable::accelerator::DeviceGuard guard(y.get_device_index());
  const auto m = check_lengths(y_lengths, y);
  Tensor index = new_tensor(y, {index_bytes(y)}, ScalarType::Byte);
  if (index.numel() == 0) return index;
  const Tensor points = torch::stable::contiguous(y);
  NearestPairParams params{};
  params.y = points.const_data_ptr<float>();
  params.y_lengths = data_or_null<int64_t>(m);
  params.B = y.size(0), params.M = y.size(1);
  check_started(
      launch_nearest_index(params, index.mutable_data_ptr(), current_stream(y.get_device_index())));
  return index;
}

std::tuple<Tensor, Tensor> nearest_query_cuda(Tensor x, std::optional<Tensor> x_lengths, Tensor y,
                                              std::optional<Tensor> y_lengths, Tensor index,
                                              int64_t norm) {
  const Clouds size = check_clouds(x, y);
  check_index(index, y, index_bytes(y));
  // Small clouds are sorted in shared memory faster than the index is walked.
  if (index.numel() == 0 || norm != 2 || nearest_small_supports(size.N, size.M) ||
      !nearest_tree_supports(size.B, size.N, size.M)) {
    const auto found = nearest_cuda(x, y, x_lengths, y_lengths, norm, false, "auto");
    return {std::get<0>(found), std::get<1>(found)};
  }
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  const auto n = check_lengths(x_lengths, x), m = check_lengths(y_lengths, x);
  const Tensor a = torch::stable::contiguous(x), b = torch::stable::contiguous(y);
  Tensor dist = new_tensor(x, {size.B, size.N}, x.scalar_type());
  Tensor idx = new_tensor(x, {size.B, size.N}, ScalarType::Long);
  const auto bytes = static_cast<int64_t>(nearest_tree_workspace(size.B, size.N, 0));
  const Tensor workspace = new_tensor(x, {bytes}, ScalarType::Byte);
  NearestPairParams params{};
  params.x = a.const_data_ptr<float>(), params.y = b.const_data_ptr<float>();
  params.x_lengths = data_or_null<int64_t>(n), params.y_lengths = data_or_null<int64_t>(m);
  params.dist_x = dist.mutable_data_ptr<float>();
  params.idx_x = idx.mutable_data_ptr<int64_t>();
  params.B = size.B, params.N = size.N, params.M = size.M;
  check_started(launch_nearest_query(params, index.mutable_data_ptr(), workspace.mutable_data_ptr(),
                                     current_stream(x.get_device_index())));
  return {dist, idx};
}

}  // namespace
}  // namespace pointloss

STABLE_TORCH_LIBRARY_IMPL(pointloss, CUDA, m) {
  m.impl("nearest", TORCH_BOX(&pointloss::nearest_cuda));
  m.impl("nearest_index", TORCH_BOX(&pointloss::nearest_index_cuda));
  m.impl("nearest_query", TORCH_BOX(&pointloss::nearest_query_cuda));
}
