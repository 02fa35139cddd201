// Brings operands into the order in which the micro-kernel reads them, whatever they were stored as.
#pragma once

#include "backends/cpu/kernel.h"
#include "backends/cpu/matrix.h"

namespace nibble::cpu::NIBBLE_ISA {

// An operand of C[m, n] = sum over k of A[m, k] B[n, k]. Its storage has either one row for each m (or
// n), along k, or one row for each k.
struct Operand {
  Matrix matrix;
  bool along_k;
};

// Columns of B packed together, at most; scratch below is sized for it.
constexpr int64_t kPanelColumns = 256;

// Pairs halve the work of a product of bfloat16 numbers and change no operand: only what is bfloat16 exactly
// goes that way.
static inline Lane lane_of(const Operand& a, const Operand& b) {
  const bool pairs = kMultipliesPairs && a.along_k && is_bf16(a.matrix) && is_bf16(b.matrix);
  return pairs ? Lane::kPair : Lane::kFloat;
}

// Lane l of row r, at to[r * kPitch + l], holds A[row + r, k0 + l], or that of 2 l and 2 l + 1. `depth` counts
// elements; a pair beyond it is filled with 0.
void pack_rows(const Operand& a, Lane lane, int64_t row, int64_t rows, int64_t k0, int64_t depth, float* to);

// Strips of kTileColumns: to[strip * lanes * kTileColumns + l * kTileColumns + j] is lane l of B[column + strip *
// kTileColumns + j, k0 ...], 0 beyond `columns` up to a whole vector; lanes = ceil(depth / elements of a lane).
void pack_columns(const Operand& b, Lane lane, int64_t column, int64_t columns, int64_t k0, int64_t depth, float* to);

}  // namespace nibble::cpu::NIBBLE_ISA
