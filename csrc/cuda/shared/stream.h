// SPDX-License-Identifier: MIT
// What every CUDA host entry takes from torch and tells it: the caller's stream, and a failed
// launch.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>

#include "../../common/checks.h"

// Weak: this symbol exists only in CUDA builds of torch, and the extension must load without it.
extern "C" __attribute__((weak)) int32_t aoti_torch_get_current_cuda_stream(int32_t device,
                                                                            void** stream);

namespace pointloss {

inline cudaStream_t current_stream(int32_t device) {
  STD_TORCH_CHECK(&aoti_torch_get_current_cuda_stream != nullptr,
                  "pointloss: this torch was built without CUDA");
  void* stream = nullptr;
  STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream(device, &stream) == 0,
                  "pointloss: torch has no current CUDA stream for device ", device);
  return static_cast<cudaStream_t>(stream);
}

// To be called right after a launch: a configuration that the device refuses is reported at once,
// never as zeros. It does not wait for the kernel.
inline void check_launch(const char* what, cudaError_t error = cudaGetLastError()) {
  STD_TORCH_CHECK(error == cudaSuccess, "pointloss: launching ", what, ": ",
                  cudaGetErrorString(error));
}

}  // namespace pointloss
