// A tile of a product: its sums in registers, what is multiplied and added to them, and where they go.
#pragma once

#include "backends/cpu/elements.h"
#include "backends/cpu/kernel.h"
#include "ops/gemm_plan.h"

namespace nibble::cpu::NIBBLE_ISA {

template <int ROWS, int VECS>
using Sums = Vec[ROWS][VECS];

// Memory that is asked for beside products, `step` bytes on for each lane of depth.
struct Asked {
  const char* at;
  int64_t step;
  NIBBLE_INLINE void next() {
    __builtin_prefetch(at, 0, 2);
    at += step;
  }
};

// Where B comes from: packed strips, or rows of its storage.
template <int VECS>
struct Strip {
  const float* b;
  Asked asked;
  NIBBLE_INLINE void next(Vec* column) {
    asked.next();
#pragma GCC unroll 2
    for (int v = 0; v < VECS; ++v) column[v] = load(b + v * kWidth);
    b += kTileColumns;
  }
};

// Rows of A, a lane of each at a time. Every third row has a pointer of its own, and the next two lie one and two steps
// behind it, which an address of x86-64 holds: so all of them stay in registers.
template <int ROWS>
class RowsOfA {
 public:
  NIBBLE_INLINE RowsOfA(const float* a, int64_t row_step) : row_step_(row_step) {
#pragma GCC unroll 8
    for (int i = 0; i < kPointers; ++i) at_[i] = a + 3 * i * row_step;
  }
  NIBBLE_INLINE const float* operator[](int r) const { return at_[r / 3] + r % 3 * row_step_; }
  NIBBLE_INLINE void next() {
#pragma GCC unroll 8
    for (int i = 0; i < kPointers; ++i) {
      ++at_[i];
      asm("" : "+r"(at_[i]));  // GCC would keep every row's distance from the first instead, some of them in memory
    }
  }

 private:
  static constexpr int kPointers = (ROWS + 2) / 3;
  const float* at_[kPointers];
  const int64_t row_step_;
};

template <Lane LANE, int ROWS, int VECS, typename Source>
NIBBLE_INLINE inline void add_products(Sums<ROWS, VECS>& sum, const float* a, int64_t a_pitch, Source b, int64_t depth) {
  RowsOfA<ROWS> rows(a, a_pitch);
  for (int64_t k = 0; k < depth; ++k, rows.next()) {
    Vec column[VECS];
    b.next(column);
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) {
      if constexpr (VECS == 1) {
        sum[r][0] = multiply_add<LANE>(rows[r], column[0], sum[r][0]);
      } else {
        const Vec factor = splat(*rows[r]);
#pragma GCC unroll 2
        for (int v = 0; v < VECS; ++v) sum[r][v] = multiply_add<LANE>(factor, column[v], sum[r][v]);
      }
    }
  }
}

// A tile of a block, and how many lie side by side.
struct Place {
  int64_t row, column, across;
};

// The part of the rows of A that the tiles below read: all tiles side by side ask for all of it. Without this, the first of them
// wait for rows that come from the third level or from memory. Rows that are near are asked for where they are read.
template <int ROWS>
NIBBLE_INLINE inline Asked rows_below(const Piece& p, const float* a, const Place& tile) {
  if (!p.is_far) return {reinterpret_cast<const char*>(a), 0};
  const int64_t bytes = ROWS * p.a_pitch * int64_t(sizeof(float)), part = bytes / tile.across;
  return {reinterpret_cast<const char*>(a) + bytes + tile.column / kTileColumns * part, blocks_of(part, p.depth)};
}

// sum = (sum +) what `from` holds.
template <int ROWS, int VECS>
NIBBLE_INLINE inline void take_tile(Sums<ROWS, VECS>& sum, const float* from, int64_t pitch, bool add) {
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < VECS; ++v) {
      const Vec held = load(from + r * pitch + v * kWidth);
      sum[r][v] = add ? sum[r][v] + held : held;
    }
  }
}

template <typename T, int ROWS, int VECS>
NIBBLE_INLINE inline void put_tile(Sums<ROWS, VECS>& sum, T* c, int64_t pitch, bool add) {
  if (add) {
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 2
      for (int v = 0; v < VECS; ++v) sum[r][v] += load(c + r * pitch + v * kWidth);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < VECS; ++v) store(c + r * pitch + v * kWidth, sum[r][v]);
  }
}

// What is done to a tile's sums at last, on their way to c[at].
template <int ROWS, int VECS>
NIBBLE_INLINE inline void finish_tile(Sums<ROWS, VECS>& sum, int64_t column, const Out& out, int64_t at) {
  if (out.bias != nullptr) {
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 2
      for (int v = 0; v < VECS; ++v) sum[r][v] += load(out.bias + column + v * kWidth);
    }
  }
  if (out.rounds) put_tile<Bf16, ROWS, VECS>(sum, static_cast<Bf16*>(out.c) + at, out.pitch, out.add);
  else put_tile<float, ROWS, VECS>(sum, static_cast<float*>(out.c) + at, out.pitch, out.add);
}

// Asks for the rows of C that a tile goes to.
template <int ROWS, int VECS>
NIBBLE_INLINE inline void ask_for_tile(const Out& out, int64_t at) {
  const int64_t bytes = out.rounds ? 2 : 4;
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r) {
    char* const row = static_cast<char*>(out.c) + (at + r * out.pitch) * bytes;
    __builtin_prefetch(row, 1);
    if (!out.rounds && VECS == 2) __builtin_prefetch(row + kWidth * 4, 1);
  }
}

}  // namespace nibble::cpu::NIBBLE_ISA
