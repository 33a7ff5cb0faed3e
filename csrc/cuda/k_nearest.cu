// SPDX-License-Identifier: MIT
// pointloss::k_nearest on CUDA: check, allocate, choose brute force or tree, launch.
#include "../common/calls/nearest_call.h"

#include <tuple>

#include "nearest.h"
#include "nearest/k/brute_force.cuh"
#include "nearest/k/tree.cuh"
#include "shared/launch.cuh"
#include "shared/stream.h"

namespace pointloss {
namespace {

template <int kNorm, int kSlots, class T>
void launch_brute(const KBruteForceParams<T>& p, cudaStream_t stream) {
  const unsigned grid = grid_size(p.B * ceil_div(p.N, kBruteThreads / 32));
  if (grid == 0) return;
  auto* kernel = kNorm == 2 && p.D == 3 ? &k_brute_force_kernel<2, 3, kSlots, T>
                                        : &k_brute_force_kernel<kNorm, 0, kSlots, T>;
  check_launch("k_nearest", launch(kernel, {grid, kBruteThreads}, stream, p));
}

template <class T>
void search_brute(const KNearestCall& call, cudaStream_t stream) {
  const auto [B, N, M, D] = call.search.size;
  const KBruteForceParams<T> params{call.search.x.const_data_ptr<T>(),
                                    call.search.y.const_data_ptr<T>(),
                                    call.search.x_lengths_data(),
                                    call.search.y_lengths_data(),
                                    call.dist.mutable_data_ptr<T>(),
                                    call.idx.mutable_data_ptr<int64_t>(),
                                    B,
                                    N,
                                    M,
                                    D,
                                    static_cast<int>(call.k)};
  auto* run = call.search.norm == 1
                  ? (call.k <= 32 ? &launch_brute<1, 1, T> : &launch_brute<1, 2, T>)
                  : (call.k <= 32 ? &launch_brute<2, 1, T> : &launch_brute<2, 2, T>);
  run(params, stream);
}

void search_tree(const KNearestCall& call, void* index, cudaStream_t stream) {
  NearestPairParams params{};
  params.x = call.search.x.const_data_ptr<float>();
  params.y = call.search.y.const_data_ptr<float>();
  params.x_lengths = call.search.x_lengths_data(), params.y_lengths = call.search.y_lengths_data();
  params.dist_x = call.dist.mutable_data_ptr<float>();
  params.idx_x = call.idx.mutable_data_ptr<int64_t>();
  params.B = call.search.size.B, params.N = call.search.size.N, params.M = call.search.size.M;
  check_launch("k_nearest", launch_k_tree(params, static_cast<int>(call.k), index, stream));
}

std::tuple<Tensor, Tensor> k_nearest_cuda(Tensor x, Tensor y, std::optional<Tensor> x_lengths,
                                          std::optional<Tensor> y_lengths,
                                          std::optional<Tensor> index, int64_t norm, int64_t k,
                                          std::string method) {
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  const KNearestCall call = check_k_nearest(x, y, x_lengths, y_lengths, norm, k, method);
  const Clouds& size = call.search.size;
  if (index.has_value()) check_index_cuda(*index, y);
  const bool single = x.scalar_type() == ScalarType::Float;
  const bool possible = single && size.D == 3 && norm == 2,
             asked = call.search.method == Method::kTree;
  STD_TORCH_CHECK(!asked || possible, "method tree needs float32, D = 3 and norm 2 on CUDA");
  const bool worth_it = call.search.method == Method::kAuto && size.M >= kTreeFromForK;
  if (possible && !index.has_value() && (asked || worth_it))
    index = nearest_index_cuda(y, y_lengths);
  const cudaStream_t stream = current_stream(x.get_device_index());
  if (possible && index.has_value() && index->numel() > 0) {
    search_tree(call, index->mutable_data_ptr(), stream);
  } else {
    (single ? &search_brute<float> : &search_brute<double>)(call, stream);
  }
  return {call.dist, call.idx};
}

}  // namespace
}  // namespace pointloss

STABLE_TORCH_LIBRARY_IMPL(pointloss, CUDA, m) {
  m.impl("k_nearest", TORCH_BOX(&pointloss::k_nearest_cuda));
}
