// SPDX-License-Identifier: MIT
// The Python module pointloss._C, which tells what was built. It alone is made for one version of
// Python; where it is missing, the op of the same name tells it.
#include "build_info.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

PYBIND11_MODULE(_C, m) {
  m.doc() = "What was built; the ops are in the library pointloss/_ops.so.";
  m.def("build_info", &pointloss::build_info);
}
