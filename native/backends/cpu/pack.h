// Brings operands into the order in which the micro-kernel reads them, whatever they were stored as.
#pragma once

#include "ops/gemm_plan.h"
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

// Pairs halve the work of a product of bfloat16 numbers and change no operand: only what is bfloat16 exactly
// goes that way.
static inline Lane lane_of(const Operand& a, const Operand& b) {
  const bool pairs = kMultipliesPairs && a.matrix.is_bf16() && b.matrix.is_bf16();
  return pairs ? Lane::kPair : Lane::kFloat;
}

// Lane l of row r, at to[r * pitch + l], holds A[row + r, k0 + l], or that of 2 l and 2 l + 1. `depth` counts
// elements; a pair beyond it is filled with 0.
void pack_rows(const Operand& a, Lane lane, int64_t row, int64_t rows, int64_t k0, int64_t depth, float* to,
               int64_t pitch);

static inline Blocks blocks_of(Lane lane, int64_t depth) { return Blocks(kWidth, elements_of(lane), depth); }

// The rows of an operand A[m, k] as the micro-kernel reads them: where they lie when their storage has that form,
// else packed, whole or a slab at a time, in blocks of depth. Products that share an operand pack it once.
class PackedRows {
 public:
  PackedRows() = default;
  void reserve(const Operand& a, Lane lane, int64_t depth, int64_t rows_max);
  // Turns to the rows [begin, end). What packs them: tasks that run side by side; none where they lie packed.
  int64_t begin(int64_t begin, int64_t end);
  int64_t tasks() const { return tasks_; }
  void run(int64_t task);
  void pack(int64_t begin, int64_t end);  // all of it
  // `row` counts from the slab's first.
  const float* at(int64_t block, int64_t row) const { return base_ + block * block_step_ + row * pitch_; }
  int64_t pitch() const { return pitch_; }  // lanes from one row to the next
  Lane lane() const { return lane_; }

 private:
  // Whether the storage has the kernel's order already.
  bool lies_packed() const;

  Operand a_;
  Lane lane_ = Lane::kFloat;
  int64_t depth_ = 0, pitch_ = 0, block_step_ = 0;
  int64_t begin_ = 0, rows_ = 0, tasks_ = 0;
  const float* base_ = nullptr;
  Workspace space_;
};

// Strips of kTileColumns: to[strip * lanes * kTileColumns + l * kTileColumns + j] is lane l of B[column + strip *
// kTileColumns + j, k0 ...], 0 beyond `columns` up to a whole vector; lanes = ceil(depth / elements of a lane).
void pack_columns(const Operand& b, Lane lane, int64_t column, int64_t columns, int64_t k0, int64_t depth, float* to);

}  // namespace nibble::cpu::NIBBLE_ISA
