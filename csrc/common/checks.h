// SPDX-License-Identifier: MIT
// Guards of the host entries: what must hold for the kernels not to read outside a tensor.
// The messages for people are Python's (pointloss/_checks.py). Of the headers here only this and
// calls/* see torch.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <initializer_list>
#include <optional>
#include <string>
#include <vector>

#include "reduction.h"

namespace pointloss {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kMaxDim = 64;

struct Clouds {
  int64_t B, N, M, D;
};

inline void check_float(const Tensor& x) {
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::Float || x.scalar_type() == ScalarType::Double,
                  "x and y must be float32 or float64");
}

inline Clouds check_clouds(const Tensor& x, const Tensor& y, int64_t most_dims = kMaxDim) {
  STD_TORCH_CHECK(x.dim() == 3 && y.dim() == 3, "x and y must be [B, N, D] and [B, M, D]");
  STD_TORCH_CHECK(x.size(0) == y.size(0) && x.size(2) == y.size(2), "x and y differ in B or D");
  STD_TORCH_CHECK(x.size(2) >= 1 && x.size(2) <= most_dims, "D must be in 1..", most_dims);
  STD_TORCH_CHECK(x.scalar_type() == y.scalar_type(), "x and y differ in dtype");
  check_float(x);
  STD_TORCH_CHECK(x.device() == y.device(), "x and y are on different devices");
  return {x.size(0), x.size(1), y.size(1), x.size(2)};
}

// Uninitialised, on x's device. Not torch::stable::new_empty, which looks the op up by its name and
// boxes its arguments: an allocation is most of what a small op costs on the host.
inline Tensor new_tensor(const Tensor& x, std::initializer_list<int64_t> sizes, ScalarType dtype) {
  int32_t device_type = 0;
  STD_TORCH_CHECK(aoti_torch_get_device_type(x.get(), &device_type) == 0, "no device type");
  std::vector<int64_t> strides(sizes.size(), 1);
  for (size_t k = sizes.size(); k-- > 1;)
    strides[k - 1] = strides[k] * std::max<int64_t>(sizes.begin()[k], 1);
  AtenTensorHandle handle = nullptr;
  STD_TORCH_CHECK(aoti_torch_empty_strided(
                      static_cast<int64_t>(sizes.size()), sizes.begin(), strides.data(),
                      torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype)),
                      device_type, x.get_device_index(), &handle) == 0,
                  "pointloss: allocating a tensor failed");
  return Tensor(handle);
}

// The gradient of a cloud [B, N, D], uninitialised; one that nobody needs has no elements.
inline Tensor new_gradient(const Tensor& cloud, bool needed) {
  return needed
             ? new_tensor(cloud, {cloud.size(0), cloud.size(1), cloud.size(2)}, cloud.scalar_type())
             : new_tensor(cloud, {0}, cloud.scalar_type());
}

template <class T>
T* data_or_null(Tensor& gradient) {
  return gradient.numel() > 0 ? gradient.mutable_data_ptr<T>() : nullptr;
}

// As torch::stable::contiguous, without the boxed call where there is nothing to do.
inline Tensor dense(const Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

// An optional tensor of these sizes and dtype (int64 or float64) on x's device: contiguous, or
// nullopt. `shape` tells the sizes.
inline std::optional<Tensor> check_optional(const std::optional<Tensor>& given, const Tensor& x,
                                            std::initializer_list<int64_t> sizes, ScalarType dtype,
                                            const char* name, const char* shape) {
  if (!given.has_value()) return std::nullopt;
  bool fits = given->dim() == static_cast<int64_t>(sizes.size());
  for (size_t k = 0; fits && k < sizes.size(); ++k) fits = given->size(k) == sizes.begin()[k];
  STD_TORCH_CHECK(fits, name, " must be ", shape);
  STD_TORCH_CHECK(given->scalar_type() == dtype, name, " must be ",
                  dtype == ScalarType::Long ? "int64" : "float64");
  STD_TORCH_CHECK(given->device() == x.device(), name, " must be on x's device");
  return dense(*given);
}

inline std::optional<Tensor> check_lengths(const std::optional<Tensor>& lengths, const Tensor& x) {
  return check_optional(lengths, x, {x.size(0)}, ScalarType::Long, "lengths", "[B]");
}

// An index of y as nearest_index returns it, of `bytes` bytes.
inline void check_index(const Tensor& index, const Tensor& y, int64_t bytes) {
  STD_TORCH_CHECK(index.scalar_type() == ScalarType::Byte && index.dim() == 1 &&
                      index.is_contiguous() && index.device() == y.device(),
                  "index must be what nearest_index returns");
  STD_TORCH_CHECK(index.numel() == bytes, "index was built of a y of another size");
}

// How nearest searches; both give the same bits, so this is only a matter of speed.
enum class Method { kAuto, kBrute, kTree };

inline Method check_method(const std::string& method) {
  STD_TORCH_CHECK(method == "auto" || method == "brute" || method == "tree",
                  "method must be auto, brute or tree");
  return method == "auto" ? Method::kAuto : method == "brute" ? Method::kBrute : Method::kTree;
}

struct Reduction {
  Share share[2];  // of the distances of x and of y
  bool root;       // of distances: they count by their roots
  bool per_cloud;  // a value for each cloud, not one for all
};

inline Reduction check_reduction(const Clouds& size, const int64_t* x_lengths,
                                 const int64_t* y_lengths, int64_t norm, bool squared,
                                 const std::string& over_points, const std::string& over_batch) {
  STD_TORCH_CHECK(over_points == "mean" || over_points == "sum",
                  "point_reduction must be mean or sum");
  STD_TORCH_CHECK(over_batch == "mean" || over_batch == "sum" || over_batch == "none",
                  "batch_reduction must be mean, sum or none");
  const bool mean = over_points == "mean";
  const double factor =
      over_batch == "mean" ? 1.0 / static_cast<double>(std::max<int64_t>(size.B, 1)) : 1.0;
  return {{{factor, mean, x_lengths, size.N}, {factor, mean, y_lengths, size.M}},
          norm == 2 && !squared,
          over_batch == "none"};
}

template <class T>
const T* data_or_null(const std::optional<Tensor>& tensor) {
  return tensor.has_value() ? tensor->const_data_ptr<T>() : nullptr;
}

}  // namespace pointloss
