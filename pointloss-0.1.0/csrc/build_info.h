// SPDX-License-Identifier: MIT
// What was built, from the macros that setup.py sets.
#pragma once

#include <map>
#include <string>

#define POINTLOSS_TEXT_(...) #__VA_ARGS__
#define POINTLOSS_TEXT(...) POINTLOSS_TEXT_(__VA_ARGS__)

namespace pointloss {

inline std::map<std::string, std::string> build_info() {
  std::map<std::string, std::string> info;
  info["version"] = POINTLOSS_TEXT(POINTLOSS_VERSION);
  info["torch"] = POINTLOSS_TEXT(POINTLOSS_TORCH);
  info["compiler"] = __VERSION__;
#ifdef POINTLOSS_WITH_CUDA
  info["cuda"] = POINTLOSS_TEXT(POINTLOSS_CUDA_TOOLKIT);
  info["cuda_archs"] = POINTLOSS_TEXT(POINTLOSS_CUDA_ARCHS);
#else
  info["cuda"] = "";
  info["cuda_archs"] = "";
#endif
#if defined(__x86_64__)
  // The kernels carry an AVX2 variant and choose when they are called.
  info["cpu_variants"] = "baseline,avx2+fma";
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  info["cpu_in_use"] = avx2 ? "avx2+fma" : "baseline";
#else
  info["cpu_variants"] = "baseline";
  info["cpu_in_use"] = "baseline";
#endif
  return info;
}

}  // namespace pointloss
