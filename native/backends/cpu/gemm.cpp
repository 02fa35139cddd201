#include "backends/cpu/gemm.h"

#include "backends/cpu/dropout.h"
#include "backends/cpu/workspace.h"
#include "core/thread_pool.h"

namespace nibble::cpu::NIBBLE_ISA {

namespace {

Lane lane_of(const Term& t) { return lane_of(t.a, t.b); }
bool is_packed(const Term& t) { return t.packed != nullptr && t.packed->lane() == lane_of(t); }

Plan plan_for(const Term* terms, int count, int64_t m, int64_t n) {
  int64_t lanes = 0;
  bool whole = false;
  for (int t = 0; t < count; ++t) {
    whole = whole || is_packed(terms[t]);
    lanes += blocks_of(terms[t].depth, elements_of(lane_of(terms[t])));
  }
  return plan_of({kWidth, kTileColumns, thread_count()}, m, n, lanes, whole);
}

// A block of C.
struct Block {
  int64_t row, rows, column, columns;
};

// Sums a block of C: packs B, a block of depth of a term after the other, and multiplies as much depth at once as a pass
// holds. What does not end in C at once is summed in scratch.
class BlockSum {
 public:
  // `sums`: scratch in rows of `pitch`; null: C is summed in place.
  BlockSum(const Block& block, const Result& result, float* panel, float* sums, int64_t pitch)
      : block_(block), result_(result), panel_(panel), sums_(sums), pitch_(pitch) {}

  void add(const Term& term, const PackedRows& packed, int64_t packed_row) {
    const Lane lane = lane_of(term);
    const Blocks blocks = blocks_of(lane, term.depth);
    for (int64_t i = 0; i < blocks.count; ++i) {
      const int64_t k0 = i * blocks.depth, depth = least(blocks.depth, term.depth - k0);
      const int64_t lanes = lanes_of(lane, depth);
      if (depth_ + lanes > kPassDepth) run(false);
      float* const b = panel_ + depth_ * multiple(block_.columns, kTileColumns);
      pack_columns(term.b, lane, block_.column, block_.columns, k0, depth, b);
      pieces_[count_++] = {packed.at(i, packed_row), packed.pitch(), b, lanes, lane};
      depth_ += lanes;
    }
    if (term.mask != nullptr) mask(*term.mask);
  }

  void finish() {
    run(true);
    if (result_.turned) add_turned();
  }

 private:
  static constexpr int kPiecesMax = kTermsMax + 2;  // blocks of a longer depth are more than half of kDepth

  void run(bool is_last) {
    const Tensor& c = result_.c;
    const bool to_sums = sums_ != nullptr && (result_.turned || !is_last);
    Out out{.c = sums_, .pitch = pitch_, .padded = true, .add = !is_first_};
    if (!to_sums) {
      const int64_t n = c.dim(1);
      out = {.c = c.u8() + (block_.row * n + block_.column) * size_of(c.dtype), .pitch = n,
             .rounds = c.dtype == DType::kBF16, .add = result_.add};
      if (sums_ == nullptr) out.add = result_.add || !is_first_;
      else if (!is_first_) out.from = sums_, out.from_pitch = pitch_;
      if (result_.bias != nullptr && (sums_ != nullptr || is_first_)) out.bias = result_.bias + block_.column;
    }
    multiply_pieces(pieces_, count_, block_.rows, block_.columns, out);
    count_ = 0;
    depth_ = 0;
    is_first_ = false;
  }

  void mask(const Dropout& mask) {
    run(false);
    const int64_t n = result_.c.dim(1);
    for (int64_t r = 0; r < block_.rows; ++r)
      apply_dropout(mask, (block_.row + r) * n + block_.column, block_.columns, sums_ + r * pitch_);
  }

  // c[column, row] += the block.
  void add_turned() {
    const Tensor& c = result_.c;
    for (int64_t j = 0; j < block_.columns; ++j) {
      float* to = c.f32() + (block_.column + j) * c.dim(1) + block_.row;
      for (int64_t r = 0; r < block_.rows; ++r) to[r] += sums_[r * pitch_ + j];
    }
  }

  const Block block_;
  const Result& result_;
  float *const panel_, *const sums_;
  const int64_t pitch_;
  Piece pieces_[kPiecesMax];
  int count_ = 0;
  int64_t depth_ = 0;  // of the pieces, in lanes
  bool is_first_ = true;
};

}  // namespace

void gemm(const Term* terms, int count, const Result& result) {
  if (is_for_few_rows(terms, count, result)) {
    const Product product{terms, count, result};
    return gemm_few_rows(&product, 1);
  }
  const int64_t m = result.c.dim(result.turned ? 1 : 0), n = result.c.dim(result.turned ? 0 : 1);
  const Plan plan = plan_for(terms, count, m, n);
  const bool one_pass = is_one_pass(plan.lanes);
  const bool beside = result.turned || terms[0].mask != nullptr || (result.c.dtype != DType::kF32 && !one_pass);
  PackedRows own[kTermsMax];
  const PackedRows* packed[kTermsMax];
  for (int t = 0; t < count; ++t) {
    packed[t] = is_packed(terms[t]) ? terms[t].packed : &own[t];
    if (!is_packed(terms[t])) own[t].reserve(terms[t].a, lane_of(terms[t]), terms[t].depth, plan.slab_rows);
  }
  Scratch scratch(plan.scratch_floats(beside), thread_count());
  for (int64_t begin = 0; begin < m; begin += plan.slab_rows) {
    const int64_t end = least(begin + plan.slab_rows, m);
    for (int t = 0; t < count; ++t)
      if (packed[t] == &own[t]) own[t].pack(begin, end);
    const int64_t across = blocks_of(n, plan.block_columns);
    parallel_for(across * blocks_of(end - begin, plan.block_rows), [&](int64_t task) {
      const Scratch::Piece piece(scratch);
      const int64_t row = begin + task / across * plan.block_rows, column = task % across * plan.block_columns;
      const Block block{row, least(plan.block_rows, end - row), column, least(plan.block_columns, n - column)};
      float* const sums = beside ? piece.data() + plan.panel_floats() : nullptr;
      BlockSum sum(block, result, piece.data(), sums, plan.block_columns);
      for (int t = 0; t < count; ++t) sum.add(terms[t], *packed[t], row - begin);
      sum.finish();
    });
  }
}

}  // namespace nibble::cpu::NIBBLE_ISA
