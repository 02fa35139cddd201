// Brings operands into the order in which the micro-kernel reads them, whatever they were stored as.
#pragma once

#include "backends/cpu/kernel.h"
#include "backends/cpu/matrix.h"
#include "backends/cpu/workspace.h"

namespace nibble::cpu::NIBBLE_ISA {

// An operand of C[m, n] = sum over k of A[m, k] B[n, k]. Its storage has either one row for each m (or
// n), along k, or one row for each k.
struct Operand {
  Matrix matrix;
  bool along_k = true;
};

// Columns of B packed together, at most; scratch below is sized for it.
constexpr int64_t kPanelColumns = 256;

// Pairs halve the work of a product of bfloat16 numbers and change no operand: only what is bfloat16 exactly
// goes that way.
static inline Lane lane_of(const Operand& a, const Operand& b) {
  const bool pairs = kMultipliesPairs && a.matrix.is_bf16() && b.matrix.is_bf16();
  return pairs ? Lane::kPair : Lane::kFloat;
}

// Lane l of row r, at to[r * kPitch + l], holds A[row + r, k0 + l], or that of 2 l and 2 l + 1. `depth` counts
// elements; a pair beyond it is filled with 0.
void pack_rows(const Operand& a, Lane lane, int64_t row, int64_t rows, int64_t k0, int64_t depth, float* to);

// An operand A[m, k], packed whole or a slab of rows at a time, in blocks of depth: [block][row][kPitch]. Products
// that share it pack it once.
class PackedRows {
 public:
  PackedRows() = default;
  PackedRows(const Operand& a, Lane lane, int64_t depth, int64_t rows_max) { reserve(a, lane, depth, rows_max); }
  void reserve(const Operand& a, Lane lane, int64_t depth, int64_t rows_max);
  void pack(int64_t begin, int64_t end);
  // `row` counts from the slab's first.
  const float* at(int64_t block, int64_t row) const { return space_.data() + (block * rows_ + row) * kPitch; }
  Lane lane() const { return lane_; }

 private:
  Operand a_;
  Lane lane_ = Lane::kFloat;
  int64_t depth_ = 0, rows_ = 0;
  Workspace space_;
};

// Elements of depth in a block.
constexpr int64_t block_depth(Lane lane) { return kDepth * elements_of(lane); }
constexpr int64_t block_count(Lane lane, int64_t depth) { return (depth + block_depth(lane) - 1) / block_depth(lane); }

// Strips of kTileColumns: to[strip * lanes * kTileColumns + l * kTileColumns + j] is lane l of B[column + strip *
// kTileColumns + j, k0 ...], 0 beyond `columns` up to a whole vector; lanes = ceil(depth / elements of a lane).
void pack_columns(const Operand& b, Lane lane, int64_t column, int64_t columns, int64_t k0, int64_t depth, float* to);

}  // namespace nibble::cpu::NIBBLE_ISA
