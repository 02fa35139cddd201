// Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), the one source
// of randomness on every device: a number depends on (seed, stream, index) and on nothing else, so a
// recomputed forward pass sees the mask it saw before and thread counts do not matter.
#pragma once

#include <cstdint>

#include "core/portable.h"

namespace nibble {

struct Philox4 {
  uint32_t value[4];
};

// The four words of counter (index, stream) under key seed.
NIBBLE_HD inline Philox4 philox4(uint64_t seed, uint64_t stream, uint64_t index) {
  uint32_t c0 = uint32_t(index), c1 = uint32_t(index >> 32), c2 = uint32_t(stream), c3 = uint32_t(stream >> 32);
  uint32_t k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * c0, p1 = uint64_t{0xCD9E8D57u} * c2;
    const uint32_t n0 = uint32_t(p1 >> 32) ^ c1 ^ k0, n2 = uint32_t(p0 >> 32) ^ c3 ^ k1;
    c1 = uint32_t(p1);
    c3 = uint32_t(p0);
    c0 = n0;
    c2 = n2;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// Uniform in [0, 1), 24 bits.
NIBBLE_HD inline float uniform_of(uint32_t word) { return float(word >> 8) * 0x1p-24f; }

// Whether element `index` of dropout mask (seed, stream) is kept, with probability 1 - p.
NIBBLE_HD inline bool dropout_keeps(uint64_t seed, uint64_t stream, uint64_t index, float p) {
  return uniform_of(philox4(seed, stream, index / 4).value[index % 4]) >= p;
}

}  // namespace nibble
