// SPDX-License-Identifier: MIT
// Calls of pointloss::emd and emd_backward as both devices check and allocate them.
#pragma once

#include <torch/csrc/stable/library.h>

#include <string>
#include <tuple>

#include "../checks.h"
#include "../emd.h"

namespace pointloss {

struct EmdCall {
  Clouds size;
  Tensor x, y, idx, cost;  // contiguous
  std::optional<Tensor> x_lengths, y_lengths;
  Reduction reduction;
  bool squared, per_point;

  template <class T>
  EmdMatching<T> matching() const {
    const auto [B, N, M, D] = size;
    return {x.const_data_ptr<T>(),
            y.const_data_ptr<T>(),
            idx.const_data_ptr<int64_t>(),
            cost.const_data_ptr<double>(),
            {reduction.share[0], reduction.share[1]},
            squared,
            B,
            N,
            M,
            D};
  }
  int64_t dims() const { return reduction.per_cloud + per_point; }  // of the value
};

inline EmdCall check_emd_matching(const Tensor& x, const Tensor& y,
                                  const std::optional<Tensor>& x_lengths,
                                  const std::optional<Tensor>& y_lengths, const Tensor& idx,
                                  const Tensor& cost, bool squared, const std::string& over_points,
                                  const std::string& over_batch) {
  const Clouds size = check_clouds(x, y, INT64_MAX);
  const auto n = check_lengths(x_lengths, x), m = check_lengths(y_lengths, x);
  const bool per_point = over_points == "none";
  const Reduction reduction =
      check_reduction(size, data_or_null<int64_t>(n), data_or_null<int64_t>(m), 2, squared,
                      per_point ? "sum" : over_points, per_point ? "none" : over_batch);
  const auto partners = check_optional(idx, x, {size.B, size.N}, ScalarType::Long, "idx", "[B, N]");
  const auto costs = check_optional(cost, x, {size.B}, ScalarType::Double, "cost", "[B]");
  return {size, dense(x), dense(y), *partners, *costs, n, m, reduction, squared, per_point};
}

struct EmdValueCall : EmdCall {
  Tensor converged;              // contiguous
  std::optional<Tensor> missed;  // a bool on the CPU
  Tensor value;                  // result

  // `told`: where the device writes to `missed`.
  template <class T>
  EmdValue<T> params(bool* told) {
    return {matching<T>(), converged.const_data_ptr<bool>(), value.mutable_data_ptr<T>(), told};
  }
};

inline EmdValueCall check_emd(const Tensor& x, const Tensor& y,
                              const std::optional<Tensor>& x_lengths,
                              const std::optional<Tensor>& y_lengths, const Tensor& idx,
                              const Tensor& cost, const Tensor& converged, bool squared,
                              const std::string& over_points, const std::string& over_batch,
                              const std::optional<Tensor>& missed) {
  const EmdCall call =
      check_emd_matching(x, y, x_lengths, y_lengths, idx, cost, squared, over_points, over_batch);
  STD_TORCH_CHECK(converged.dim() == 1 && converged.size(0) == call.size.B &&
                      converged.scalar_type() == ScalarType::Bool &&
                      converged.device() == x.device(),
                  "converged must be bool [B], on x's device");
  STD_TORCH_CHECK(!missed.has_value() || (missed->numel() == 1 && missed->is_cpu() &&
                                          missed->scalar_type() == ScalarType::Bool),
                  "missed must be one bool on the CPU");
  const auto [B, N, M, D] = call.size;
  const auto dtype = x.scalar_type();
  return {call, dense(converged), missed,
          call.per_point    ? new_tensor(x, {B, N}, dtype)
          : call.dims() > 0 ? new_tensor(x, {B}, dtype)
                            : new_tensor(x, {}, dtype)};
}

struct EmdBackwardCall : EmdCall {
  Tensor grad;
  int64_t stride[2];
  Tensor grad_x, grad_y;  // results

  template <class T>
  EmdBackward<T> params() {
    return {matching<T>(),
            grad.const_data_ptr<T>(),
            {stride[0], stride[1]},
            data_or_null<T>(grad_x),
            data_or_null<T>(grad_y)};
  }
};

inline EmdBackwardCall check_emd_backward(const Tensor& grad, const Tensor& x, const Tensor& y,
                                          const std::optional<Tensor>& x_lengths,
                                          const std::optional<Tensor>& y_lengths, const Tensor& idx,
                                          const Tensor& cost, bool squared,
                                          const std::string& over_points,
                                          const std::string& over_batch, bool need_x, bool need_y) {
  const EmdCall call =
      check_emd_matching(x, y, x_lengths, y_lengths, idx, cost, squared, over_points, over_batch);
  STD_TORCH_CHECK(grad.scalar_type() == x.scalar_type() && grad.device() == x.device(),
                  "the value's gradient has another dtype or device");
  const int64_t dims = call.dims();
  STD_TORCH_CHECK(grad.dim() == dims && (dims < 1 || grad.size(0) == call.size.B) &&
                      (dims < 2 || grad.size(1) == call.size.N),
                  "the value's gradient has the wrong shape");
  return {call,
          grad,
          {dims < 1 ? 0 : grad.stride(0), dims < 2 ? 0 : grad.stride(1)},
          new_gradient(x, need_x),
          new_gradient(y, need_y)};
}

}  // namespace pointloss
