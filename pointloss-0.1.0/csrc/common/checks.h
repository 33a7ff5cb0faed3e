// SPDX-License-Identifier: MIT
// Guards of the host entries: what must hold for the kernels not to read outside a tensor.
// The messages for people are Python's (pointloss/_checks.py). Of the headers here only this and
// *_call.h see torch.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <initializer_list>
#include <optional>
#include <string>
#include <vector>

namespace pointloss {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kMaxDim = 64;

struct Clouds {
  int64_t B, N, M, D;
};

inline Clouds check_clouds(const Tensor& x, const Tensor& y) {
  STD_TORCH_CHECK(x.dim() == 3 && y.dim() == 3, "x and y must be [B, N, D] and [B, M, D]");
  STD_TORCH_CHECK(x.size(0) == y.size(0) && x.size(2) == y.size(2), "x and y differ in B or D");
  STD_TORCH_CHECK(x.size(2) >= 1 && x.size(2) <= kMaxDim, "D must be in 1..", kMaxDim);
  STD_TORCH_CHECK(x.scalar_type() == y.scalar_type(), "x and y differ in dtype");
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::Float || x.scalar_type() == ScalarType::Double,
                  "x and y must be float32 or float64");
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

template <class T>
const T* data_or_null(const std::optional<Tensor>& tensor) {
  return tensor.has_value() ? tensor->const_data_ptr<T>() : nullptr;
}

}  // namespace pointloss
