// SPDX-License-Identifier: MIT
// pointloss::nearest_backward on CUDA: check, allocate, launch.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <tuple>

#include "launch.cuh"
#include "nearest_backward_kernel.cuh"

namespace pointloss {
namespace {

template <int kNorm, BackwardPass kPass, class T>
void launch_pass(const BackwardParams<T>& p, cudaStream_t stream, bool overlap = false) {
  const int64_t rows = std::max(p.direction[0].N, p.direction[1].N);
  const dim3 grid(grid_size(p.B * ceil_div(rows, kBackwardThreads)), 2);
  auto* kernel = p.D == 3 ? &nearest_backward_kernel<kNorm, kPass, 3, T>
                          : &nearest_backward_kernel<kNorm, kPass, 0, T>;
  cudaLaunchAttribute early;
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(kBackwardThreads);
  config.stream = stream;
  config.attrs = &early;
  config.numAttrs = kPass == BackwardPass::kAdd && overlap ? 1 : 0;
  STD_TORCH_CHECK(cudaLaunchKernelEx(&config, kernel, p) == cudaSuccess, "pointloss: launching ",
                  "nearest_backward_kernel: ", cudaGetErrorString(cudaGetLastError()));
}

template <int kNorm, class T>
void launch_backward(const BackwardParams<T>& p, bool deterministic, int32_t device,
                     cudaStream_t stream) {
  if (p.B * std::max(p.direction[0].N, p.direction[1].N) == 0) return;
  if (deterministic) {
    launch_pass<kNorm, BackwardPass::kBound>(p, stream);
    launch_pass<kNorm, BackwardPass::kAddFixed>(p, stream);
    launch_pass<kNorm, BackwardPass::kFinishFixed>(p, stream);
  } else {
    int major = 0;
    const bool overlap =
        cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess &&
        major >= 9;
    launch_pass<kNorm, BackwardPass::kStore>(p, stream);
    launch_pass<kNorm, BackwardPass::kAdd>(p, stream, overlap);
  }
}

template <class T>
std::tuple<Tensor, Tensor> backward_typed(const BackwardInputs& in, int64_t norm,
                                          bool deterministic) {
  const auto [B, N, M, D] = in.size;
  Tensor grad_x = new_tensor(in.x, {B, N, D}, in.x.scalar_type());
  Tensor grad_y = new_tensor(in.y, {B, M, D}, in.y.scalar_type());
  T* gx = grad_x.mutable_data_ptr<T>();
  T* gy = grad_y.mutable_data_ptr<T>();
  const T* x = in.x.const_data_ptr<T>();
  const T* y = in.y.const_data_ptr<T>();
  const auto direction = [](const std::optional<Tensor>& grad, const Tensor& idx, const T* a,
                            const T* b, T* grad_a, T* grad_b, int64_t n, int64_t m) {
    const bool asked = grad.has_value();
    return BackwardDirection<T>{data_or_null<T>(grad),
                                {asked ? grad->stride(0) : 0, asked ? grad->stride(1) : 0},
                                idx.const_data_ptr<int64_t>(),
                                a,
                                b,
                                grad_a,
                                grad_b,
                                n,
                                m,
                                nullptr,
                                nullptr};
  };
  BackwardParams<T> params{{direction(in.grad_x, in.idx_x, x, y, gx, gy, N, M),
                            direction(in.grad_y, in.idx_y, y, x, gy, gx, M, N)},
                           B,
                           D,
                           fixed_point_bits(std::max(N, M))};
  const int32_t device = in.x.get_device_index();
  const cudaStream_t stream = current_stream(device);
  Tensor sums =
      new_tensor(in.x, {deterministic ? B * (N + M) * D * (1 + kWords<T>) : 0}, ScalarType::Long);
  if (deterministic && sums.numel() > 0) {
    auto* next = reinterpret_cast<unsigned long long*>(sums.mutable_data_ptr<int64_t>());
    const cudaError_t error = cudaMemsetAsync(next, 0, sums.numel() * sizeof(*next), stream);
    STD_TORCH_CHECK(error == cudaSuccess, "pointloss: clearing the sums of nearest_backward: ",
                    cudaGetErrorString(error));
    for (auto& d : params.direction) {
      d.bound = next;
      d.sum = next + B * d.M * D;
      next = d.sum + B * d.M * D * kWords<T>;
    }
  }
  if (norm == 1) {
    launch_backward<1>(params, deterministic, device, stream);
  } else {
    launch_backward<2>(params, deterministic, device, stream);
  }
  return {grad_x, grad_y};
}

std::tuple<Tensor, Tensor> nearest_backward_cuda(std::optional<Tensor> grad_x,
                                                 std::optional<Tensor> grad_y, Tensor x, Tensor y,
                                                 Tensor idx_x, Tensor idx_y, int64_t norm,
                                                 bool deterministic) {
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  const BackwardInputs in = check_backward(grad_x, grad_y, x, y, idx_x, idx_y, norm);
  auto* run =
      x.scalar_type() == ScalarType::Float ? &backward_typed<float> : &backward_typed<double>;
  return run(in, norm, deterministic);
}

}  // namespace
}  // namespace pointloss

STABLE_TORCH_LIBRARY_IMPL(pointloss, CUDA, m) {
  m.impl("nearest_backward", TORCH_BOX(&pointloss::nearest_backward_cuda));
}
