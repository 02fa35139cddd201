// See device/fragments.h. Lanes exchange what they hold as they do on a device. Copies arrive as late as they may: until
// the wait for them their place holds ones of all bits (NaN, as bfloat16), from the moment they are begun, so a missing
// wait and a place that is still read both show as other numbers.
#pragma once

#include "platform.h"

namespace nibble::cuda {

namespace emulation {

struct Operands {
  uint32_t a[4], b[2];
};

// The bfloat16 at `half` of a register that lane `lane` gave.
inline double half_of(uint32_t word, int half) { return bf16_to_float(uint16_t(half == 0 ? word : word >> 16)); }
inline Operands operands_of(int lane) {
  Operands o;
  std::memcpy(&o, slot(lane), sizeof(o));
  return o;
}

void require_aligned(const void* address);
void begin_copy(void* to, const void* from, int bytes);
void commit_copies();
void wait_copies(int groups);

// Rows that the lanes gave, 16 bytes each; then what this lane gets of `count` matrices.
inline void take_matrices(uint32_t* to, int count, const void* row, bool transposed) {
  require_aligned(row);
  if (is_counting && lane() < 8 * count) note(row, 16);
  std::memcpy(slot(lane()), row, 16);
  warp_barrier();
  const int g = lane() / 4, t = lane() % 4;
  for (int i = 0; i < count; ++i) {
    if (!transposed) {
      std::memcpy(&to[i], slot(8 * i + g) + 4 * t, 4);
      continue;
    }
    uint16_t low, high;
    std::memcpy(&low, slot(8 * i + 2 * t) + 2 * g, 2);
    std::memcpy(&high, slot(8 * i + 2 * t + 1) + 2 * g, 2);
    to[i] = uint32_t(low) | (uint32_t(high) << 16);
  }
  next_turn();
}

}  // namespace emulation

inline void multiply_add(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  const emulation::Operands mine{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
  std::memcpy(emulation::slot(emulation::lane()), &mine, sizeof(mine));
  emulation::warp_barrier();
  const int g = emulation::lane() / 4, t = emulation::lane() % 4;
  double sum[4] = {c[0], c[1], c[2], c[3]};
  for (int j = 0; j < 4; ++j) {  // the lanes that hold columns 2 j, 2 j + 1 and 8 more of A's rows
    const emulation::Operands rows = emulation::operands_of(4 * g + j);
    const emulation::Operands left = emulation::operands_of(8 * t + j), right = emulation::operands_of(8 * t + 4 + j);
    for (int r = 0; r < 4; ++r)
      for (int half = 0; half < 2; ++half) {
        const double of_a = emulation::half_of(rows.a[r], half);
        sum[r % 2 * 2] += of_a * emulation::half_of(left.b[r / 2], half);
        sum[r % 2 * 2 + 1] += of_a * emulation::half_of(right.b[r / 2], half);
      }
  }
  for (int i = 0; i < 4; ++i) c[i] = float(sum[i]);
  emulation::next_turn();
}

inline void load_matrices(uint32_t (&to)[4], const void* row) { emulation::take_matrices(to, 4, row, false); }
inline void load_matrices(uint32_t (&to)[2], const void* row) { emulation::take_matrices(to, 2, row, false); }
inline void load_matrices_transposed(uint32_t (&to)[4], const void* row) { emulation::take_matrices(to, 4, row, true); }
inline void load_matrices_transposed(uint32_t (&to)[2], const void* row) { emulation::take_matrices(to, 2, row, true); }

inline void copy_async(void* shared, const void* from, int bytes) {
  if (emulation::is_counting) {
    emulation::note(shared, 16);
    emulation::note(from, bytes);
  }
  emulation::begin_copy(shared, from, bytes);
}
inline void commit_copies() { emulation::commit_copies(); }
template <int kGroups>
void wait_copies() {
  emulation::wait_copies(kGroups);
}

}  // namespace nibble::cuda
