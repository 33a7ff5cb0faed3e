// SPDX-License-Identifier: MIT
// The searches for k neighbours that nearest.cpp calls: they take as long to compile as all others
// together, so they have a file of their own, which compiles beside it.
#define POINTLOSS_K_NEAREST_HERE
#include "nearest/tree.h"
