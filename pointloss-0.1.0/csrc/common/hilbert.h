// SPDX-License-Identifier: MIT
// Position of a grid cell on the three-dimensional Hilbert curve.
//
// The curve is that of J. Skilling, Programming the Hilbert curve, AIP Conference Proceedings 707
// (2004), written as an automaton of 24 states that reads the bits of a cell from the top, one
// octant a step: half the operations of his transform. Cells that follow each other on the curve
// are neighbours, and a key without its last 3 k bits is the key of the cell 2^k times coarser.
#pragma once

#include <cstdint>

#include "macros.h"

namespace pointloss {

// Byte 8 * state + octant, of words in little-endian order, is 8 * next state + digit of the key.
constexpr int kHilbertWords = 48;
struct HilbertSteps {
  uint32_t word[kHilbertWords];
};
constexpr HilbertSteps kHilbertSteps = {
    {0x021b1108u, 0x05342e27u, 0x56494738u, 0x0d0a145bu, 0x6e670130u, 0x150c1273u, 0x1a1d817eu,
     0x038c504fu, 0x22252b94u, 0x514e807fu, 0x2a232d9cu, 0x69a0061fu, 0x048b5748u, 0x35324639u,
     0x4c6fab00u, 0x3d663a31u, 0xb8538fb4u, 0x61423645u, 0x4a097b10u, 0x4d263c2fu, 0x0e555f84u,
     0x21529043u, 0x60b9378eu, 0x0b5a745du, 0xb0af6bbcu, 0x413e6265u, 0x16776da4u, 0x29986a63u,
     0x403fb1aeu, 0x135c7275u, 0x7aa17d1eu, 0x4b68ac07u, 0xa6851982u, 0xbf5488b3u, 0x1c8d0f5eu,
     0x338a2091u, 0x24959b92u, 0xa7be1889u, 0x2c939d9au, 0x8778b6a9u, 0x8679a5a2u, 0xb7a86cbbu,
     0x7c17ad76u, 0x3b28aa99u, 0x588371b2u, 0x97449eb5u, 0x7059a3bau, 0x9f9664bdu}};

// The low ten bits of v, moved to every third place.
POINTLOSS_HD uint32_t spread_by_three(uint32_t v) {
  v &= 0x3ffu;
  v = (v | (v << 16)) & 0x030000ffu;
  v = (v | (v << 8)) & 0x0300f00fu;
  v = (v | (v << 4)) & 0x030c30c3u;
  return (v | (v << 2)) & 0x09249249u;
}

// Key of cell (x, y, z) of a grid of 2^grid_bits cells an axis, grid_bits <= 10, cut to the first
// `bits` bits an axis: 3 * bits wide. `steps` is kHilbertSteps, wherever it is fast to read.
POINTLOSS_HD uint32_t hilbert_key(const HilbertSteps& steps, uint32_t x, uint32_t y, uint32_t z,
                                  int grid_bits, int bits) {
  const uint32_t octants =
      (spread_by_three(x) << 2) | (spread_by_three(y) << 1) | spread_by_three(z);
  const uint8_t* step = reinterpret_cast<const uint8_t*>(steps.word);
  uint32_t state = 0, key = 0;
  for (int level = 1; level <= bits; ++level) {
    const uint32_t next = step[state + ((octants >> (3 * (grid_bits - level))) & 7)];
    key = (key << 3) | (next & 7);
    state = next & ~7u;
  }
  return key;
}

}  // namespace pointloss
