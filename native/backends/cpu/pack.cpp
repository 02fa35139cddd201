#include "backends/cpu/pack.h"

#include "backends/cpu/transpose.h"

namespace nibble::cpu::NIBBLE_ISA {

namespace {

constexpr int64_t kGroup = 64;  // rows of A turned at once

int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

void clear(float* p, int64_t count) { memset(p, 0, size_t(count) * 4); }

// Storage rows are k: copied into each strip.
void pack_straight(const Operand& b, int64_t column, int64_t columns, int64_t k0, int64_t depth, float* to) {
  alignas(64) float row[kPanelColumns];
  const int64_t strips = (columns + kTileColumns - 1) / kTileColumns;
  clear(row, strips * kTileColumns);
  for (int64_t k = 0; k < depth; ++k) {
    fetch(b.matrix, k0 + k, column, columns, row);
    for (int64_t s = 0; s < strips; ++s)
      memcpy(to + (s * depth + k) * kTileColumns, row + s * kTileColumns, kTileColumns * 4);
  }
}

// Storage rows are n: read kWidth of them, then turned.
void pack_turned(const Operand& b, int64_t column, int64_t columns, int64_t k0, int64_t depth, float* to) {
  alignas(64) float rows[kWidth * kPitch];
  for (int64_t j = 0; j < columns; j += kWidth) {
    float* strip = to + j / kTileColumns * depth * kTileColumns + j % kTileColumns;
    const int64_t count = least(kWidth, columns - j);
    for (int64_t i = 0; i < count; ++i) fetch(b.matrix, column + j + i, k0, depth, rows + i * kPitch);
    if (count < kWidth) clear(rows + count * kPitch, (kWidth - count) * kPitch);
    transpose_rows(rows, kPitch, kWidth, depth, strip, kTileColumns);
  }
}

}  // namespace

void pack_rows(const Operand& a, int64_t row, int64_t rows, int64_t k0, int64_t depth, float* to) {
  if (a.along_k) {
    for (int64_t r = 0; r < rows; ++r) fetch(a.matrix, row + r, k0, depth, to + r * kPitch);
    return;
  }
  alignas(64) float part[kWidth * kGroup];
  for (int64_t r = 0; r < rows; r += kGroup) {
    const int64_t group = least(kGroup, rows - r);
    for (int64_t k = 0; k < depth; k += kWidth) {
      const int64_t count = least(kWidth, depth - k);
      for (int64_t i = 0; i < count; ++i) fetch(a.matrix, k0 + k + i, row + r, group, part + i * kGroup);
      transpose_rows(part, kGroup, count, group, to + r * kPitch + k, kPitch);
    }
  }
}

void pack_columns(const Operand& b, int64_t column, int64_t columns, int64_t k0, int64_t depth, float* to) {
  if (b.along_k) pack_turned(b, column, columns, k0, depth, to);
  else pack_straight(b, column, columns, k0, depth, to);
}

}  // namespace nibble::cpu::NIBBLE_ISA
