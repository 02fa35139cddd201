// Brings operands into the order in which the micro-kernel reads them, whatever they were stored as.
#pragma once

#include "backends/cpu/kernel.h"
#include "backends/cpu/matrix.h"
#include "backends/cpu/quarters.h"
#include "backends/cpu/workspace.h"
#include "core/thread_pool.h"
#include "ops/gemm_plan.h"

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

static inline Machine machine() { return {kWidth, kTileColumns, thread_count()}; }
static inline Blocks blocks_of(Lane lane, int64_t depth) { return Blocks(kWidth, elements_of(lane), depth); }

// Whether rows are packed for products in quarters as well (rows_have_quarters), and which of them are mixed: gradients all,
// activations those alike in size.
enum class Mixing { kNone, kAlike, kAll };

// The rows of an operand A[m, k] as the micro-kernel reads them: where they lie when their storage has that form,
// else packed, whole or a slab at a time, in blocks of depth. Products that share an operand pack it once.
class PackedRows {
 public:
  PackedRows() = default;
  void reserve(const Operand& a, Lane lane, int64_t depth, int64_t rows_max, Mixing mixing = Mixing::kNone);
  // Turns to the rows [begin, end). What packs them: tasks that run side by side; none where they lie packed.
  int64_t begin(int64_t begin, int64_t end);
  int64_t tasks() const { return tasks_; }
  void run(int64_t task);
  void pack(int64_t begin, int64_t end);  // all of it
  // `row` counts from the slab's first.
  const float* at(int64_t block, int64_t row) const { return base_ + block * block_step_ + row * pitch_; }
  int64_t pitch() const { return pitch_; }  // lanes from one row to the next
  Lane lane() const { return lane_; }
  bool mixes() const { return mixing_ != Mixing::kNone; }
  // Where A's part is in the product of a block of depth, for the run of rows that begins at `row`.
  void place(Quarters& quarters, int64_t block, int64_t row) const;

 private:
  // Whether the storage has the kernel's order already.
  bool lies_packed() const;
  int64_t rows_of_task() const;
  void mix(int64_t block, int64_t row, int64_t depth);
  // The first of the four sums of each pair of rows, of a block of depth; and the marks of its runs: 1 where they are apart.
  float* mixed(int64_t block) const;
  float* apart(int64_t block) const { return mixed(block) + 4 * mixed_step(); }
  bool differ(int64_t block, int64_t row, int64_t rows, int64_t depth) const;
  int64_t mixed_step() const { return rows_ / 2 * blocks_of(lane_, depth_).mixed_pitch(); }  // from a sum to the next

  Operand a_;
  Lane lane_ = Lane::kFloat;
  Mixing mixing_ = Mixing::kNone;
  int64_t depth_ = 0, pitch_ = 0, block_step_ = 0;
  int64_t begin_ = 0, rows_ = 0, tasks_ = 0;
  const float* base_ = nullptr;
  Workspace space_;
};

// Strips of kTileColumns: to[strip * lanes * kTileColumns + l * kTileColumns + j] is lane l of B[column + strip *
// kTileColumns + j, k0 ...], 0 beyond `columns` up to a whole vector; lanes = ceil(depth / elements of a lane).
void pack_columns(const Operand& b, Lane lane, int64_t column, int64_t columns, int64_t k0, int64_t depth, float* to);

// The same for products in quarters: panels of seven_floats, for place_columns.
void pack_quarters(const Operand& b, int64_t column, int64_t columns, int64_t k0, int64_t depth, float* to);

}  // namespace nibble::cpu::NIBBLE_ISA
