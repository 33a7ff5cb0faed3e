// SPDX-License-Identifier: MIT
// What every CUDA host entry needs: the caller's stream and device, and a check of each launch.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>

#include "../common/checks.h"

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
inline void check_launch(const char* kernel) {
  const cudaError_t error = cudaGetLastError();
  STD_TORCH_CHECK(error == cudaSuccess, "pointloss: launching ", kernel, ": ",
                  cudaGetErrorString(error));
}

// Whether a kernel may start while the one before it in the stream still runs: launched by `launch`
// with `overlap`, it must wait_for_previous_kernel() before it reads or writes what the other does.
inline bool can_overlap(int32_t device) {
  int major = 0;
  return cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess &&
         major >= 9;
}

template <class Params>
void launch(void (*kernel)(Params), dim3 grid, int threads, cudaStream_t stream, bool overlap,
            const Params& params) {
  cudaLaunchAttribute early;
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(threads);
  config.stream = stream;
  config.attrs = &early;
  config.numAttrs = overlap ? 1 : 0;
  cudaLaunchKernelEx(&config, kernel, params);
}

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Blocks of a one-dimensional grid; kernels loop with a stride of gridDim.x over the rest.
inline unsigned grid_size(int64_t tasks) {
  constexpr int64_t kMaxBlocks = 0x7fffffff;
  return static_cast<unsigned>(tasks < kMaxBlocks ? tasks : kMaxBlocks);
}

}  // namespace pointloss
