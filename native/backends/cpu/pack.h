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

// to[r * kPitch + k] = A[row + r, k0 + k]
void pack_rows(const Operand& a, int64_t row, int64_t rows, int64_t k0, int64_t depth, float* to);

// Strips of kTileColumns: to[strip * depth * kTileColumns + k * kTileColumns + j] = B[column + strip *
// kTileColumns + j, k0 + k], 0 beyond `columns` up to a whole vector.
void pack_columns(const Operand& b, int64_t column, int64_t columns, int64_t k0, int64_t depth, float* to);

}  // namespace nibble::cpu::NIBBLE_ISA
