// SPDX-License-Identifier: MIT
// pointloss::nearest on CUDA: check, allocate, launch on the caller's device and stream.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <tuple>

#include "nearest.h"
#include "nearest/brute/search.cuh"
#include "nearest/small/search.cuh"
#include "nearest/tree/search.cuh"
#include "shared/launch.cuh"
#include "shared/stream.h"

namespace pointloss {
namespace {

template <class T>
void search_brute(const NearestCall& call, const NearestOutput& out) {
  const auto [B, N, M, D] = call.size;
  BruteForceParams<T> params{};
  params.side[0] = {call.x.const_data_ptr<T>(), call.x_lengths_data(), static_cast<T*>(out.dist_x),
                    out.idx_x, N};
  params.side[1] = {call.y.const_data_ptr<T>(), call.y_lengths_data(), static_cast<T*>(out.dist_y),
                    out.idx_y, M};
  params.B = B, params.D = static_cast<int>(D);
  auto* run = call.norm == 1 ? &launch_brute_force<1, T> : &launch_brute_force<2, T>;
  check_launch("nearest", run(params, current_stream(call.x.get_device_index())));
}

// Both directions share one launch (small clouds) or one build (large ones). `index` holds the
// trees of y, or is null.
void search_tree(const NearestCall& call, const NearestOutput& out, void* index) {
  const auto [B, N, M, D] = call.size;
  const NearestPairParams params{call.x.const_data_ptr<float>(),
                                 call.y.const_data_ptr<float>(),
                                 call.x_lengths_data(),
                                 call.y_lengths_data(),
                                 static_cast<float*>(out.dist_x),
                                 out.idx_x,
                                 static_cast<float*>(out.dist_y),
                                 out.idx_y,
                                 B,
                                 N,
                                 M};
  const cudaStream_t stream = current_stream(call.x.get_device_index());
  if (small_supports(N, M)) {
    check_launch("nearest", launch_small_search(params, stream));
  } else {
    const auto bytes = static_cast<int64_t>(tree_workspace_bytes(B, N, index == nullptr ? M : 0));
    const Tensor workspace = new_tensor(call.x, {bytes}, ScalarType::Byte);
    check_launch("nearest",
                 launch_tree_search(params, workspace.mutable_data_ptr(), index, stream));
  }
}

NearestTensors nearest_cuda(Tensor x, Tensor y, std::optional<Tensor> x_lengths,
                            std::optional<Tensor> y_lengths, int64_t norm, bool both,
                            std::string method) {
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  return run_nearest(check_nearest(x, y, x_lengths, y_lengths, norm, both, method),
                     &search_nearest_cuda);
}

// Bytes of the trees of all y, 0 where there are none.
int64_t index_bytes(const Tensor& y) {
  const int64_t B = y.size(0), M = y.size(1);
  const bool possible = y.scalar_type() == ScalarType::Float && y.size(2) == 3;
  if (!possible || M < kTreeFrom || !tree_supports(B, 0, M)) return 0;
  return static_cast<int64_t>(tree_workspace_bytes(B, 0, M));
}

std::tuple<Tensor, Tensor> nearest_query_cuda(Tensor x, std::optional<Tensor> x_lengths, Tensor y,
                                              std::optional<Tensor> y_lengths, Tensor index,
                                              int64_t norm) {
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  const NearestCall call = check_nearest(x, y, x_lengths, y_lengths, norm, false, "auto");
  check_index_cuda(index, y);
  const auto [B, N, M, D] = call.size;
  // Small clouds are sorted in shared memory faster than the index is walked.
  const bool useful =
      index.numel() > 0 && norm == 2 && !small_supports(N, M) && tree_supports(B, N, M);
  const auto found = run_nearest(call, [&](const NearestCall&, const NearestOutput& out) {
    useful ? search_tree(call, out, index.mutable_data_ptr()) : search_nearest_cuda(call, out);
  });
  return {std::get<0>(found), std::get<1>(found)};
}

}  // namespace

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
  check_launch("nearest", launch_tree_index(params, index.mutable_data_ptr(),
                                            current_stream(y.get_device_index())));
  return index;
}

void check_index_cuda(const Tensor& index, const Tensor& y) {
  check_index(index, y, index_bytes(y));
}

void search_nearest_cuda(const NearestCall& call, const NearestOutput& out) {
  const Clouds& size = call.size;
  const bool possible = call.x.scalar_type() == ScalarType::Float && size.D == 3 && call.norm == 2;
  STD_TORCH_CHECK(call.method != Method::kTree || possible,
                  "method tree needs float32, D = 3 and norm 2 on CUDA");
  // In floating point: the product of three sizes may pass 2^63.
  const double pairs = (call.both ? 2.0 : 1.0) * size.B * size.N * size.M;
  const bool worth_it = pairs > kBrutePairs && std::max(size.N, size.M) > kBruteLargest &&
                        std::min(size.N, size.M) >= kTreeFromSmaller &&
                        tree_supports(size.B, size.N, size.M);
  if (call.method == Method::kTree || (call.method == Method::kAuto && possible && worth_it)) {
    search_tree(call, out, nullptr);
  } else {
    (call.x.scalar_type() == ScalarType::Float ? &search_brute<float> : &search_brute<double>)(call,
                                                                                               out);
  }
}

}  // namespace pointloss

STABLE_TORCH_LIBRARY_IMPL(pointloss, CUDA, m) {
  m.impl("nearest", TORCH_BOX(&pointloss::nearest_cuda));
  m.impl("nearest_index", TORCH_BOX(&pointloss::nearest_index_cuda));
  m.impl("nearest_query", TORCH_BOX(&pointloss::nearest_query_cuda));
}
