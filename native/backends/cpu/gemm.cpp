#include "backends/cpu/gemm.h"

#include "backends/cpu/dropout.h"
#include "backends/cpu/few.h"
#include "backends/cpu/workspace.h"
#include "core/thread_pool.h"

namespace nibble::cpu::NIBBLE_ISA {

namespace {

Lane lane_of(const Term& t) { return lane_of(t.a, t.b); }
bool is_packed(const Term& t) { return t.packed != nullptr && t.packed->lane() == lane_of(t); }

bool comes_in_quarters(const Term& t, const Result& result) {
  const Tensor& c = result.c;
  if (result.mixing == Mixing::kNone || c.dtype != DType::kBF16 || lane_of(t) != Lane::kFloat) return false;
  if (!columns_have_quarters(machine(), c.dim(1))) return false;
  return is_packed(t) ? t.packed->mixes() : rows_have_quarters(machine(), c.dim(0), t.depth);
}

Plan plan_for(const Product& product, int64_t m, int64_t n) {
  Depths depths;
  bool whole = false;
  for (const Term* t = product.terms; t < product.terms + product.count; ++t) {
    whole = whole || is_packed(*t);
    depths.add(blocks_of(lane_of(*t), t->depth), comes_in_quarters(*t, product.result));
  }
  return plan_of(machine(), m, n, depths, whole);
}

// A block of C.
struct Block {
  int64_t row, rows, column, columns;
};

// Sums a block of C: packs B, a block of depth of a term after the other, and multiplies as much depth at once as a pass
// holds. What does not end in C at once is summed in scratch.
class BlockSum {
 public:
  // `sums`: scratch in rows of `pitch`; null: C is summed in place. `seven`: for panels of quarters.
  BlockSum(const Block& block, const Result& result, float* panel, float* seven, float* sums, int64_t pitch)
      : block_(block), result_(result), panel_(panel), seven_(seven), sums_(sums), pitch_(pitch) {}

  void add(const Term& term, const PackedRows& packed, int64_t packed_row) {
    if (comes_in_quarters(term, result_)) return add_quarters(term, packed, packed_row);
    const Lane lane = lane_of(term);
    const Blocks blocks = blocks_of(lane, term.depth);
    for (int64_t i = 0; i < blocks.count; ++i) {
      const int64_t k0 = i * blocks.depth, depth = least(blocks.depth, term.depth - k0);
      const int64_t lanes = lanes_of(lane, depth);
      if (depth_ + lanes > kPassDepth) run(false);
      pieces_[count_] = {.a = packed.at(i, packed_row), .a_pitch = packed.pitch(), .depth = lanes, .lane = lane, .is_far = true};
      if (!find_rows(term.b, k0, depth, pieces_[count_])) {
        float* const b = panel_ + depth_ * multiple(block_.columns, kTileColumns);
        pack_columns(term.b, lane, block_.column, block_.columns, k0, depth, b);
        pieces_[count_].b = b;
      }
      ++count_;
      depth_ += lanes;
    }
    if (term.mask != nullptr) mask(*term.mask);
  }

  void finish() {
    run(true);
    if (result_.turned) add_turned();
  }

 private:
  // Where rows of B lie as a tile reads them, so few rows of A that packing B would cost more than its products.
  bool find_rows(const Operand& b, int64_t k0, int64_t depth, Piece& piece) const {
    const Matrix& m = b.matrix;
    const bool is_bf16 = m.dtype == DType::kBF16;
    if (b.along_k || !m.is_plain() || block_.rows > kRowsWithoutPacking || block_.columns % kTileColumns != 0) return false;
    if (piece.lane == Lane::kPair ? depth % 2 != 0 : !is_bf16 && m.dtype != DType::kF32) return false;
    piece.row_step = m.columns;
    piece.is_bf16 = is_bf16;
    piece.rows = static_cast<const uint8_t*>(m.data) + (k0 * m.columns + block_.column) * size_of(m.dtype);
    return true;
  }

  static constexpr int64_t kRowsWithoutPacking = 32;
  static constexpr int kPiecesMax = kTermsMax + 2;  // blocks of a longer depth are more than half of kDepth

  // Goes to the sums at once, a block of depth after the other.
  void add_quarters(const Term& term, const PackedRows& packed, int64_t packed_row) {
    const Blocks blocks = blocks_of(Lane::kFloat, term.depth);
    const int64_t pairs = block_.columns / (2 * kTileColumns);
    Quarters quarters;
    for (int64_t i = 0; i < blocks.count; ++i) {
      const int64_t k0 = i * blocks.depth, depth = least(blocks.depth, term.depth - k0);
      pack_quarters(term.b, block_.column, block_.columns, k0, depth, seven_);
      place_columns(quarters, seven_, depth / 2 * kTileColumns, pairs);
      for (int64_t row = 0, rows; row < block_.rows; row += rows) {
        rows = run_of(block_.rows - row);
        packed.place(quarters, i, packed_row + row);
        multiply_quarters(quarters, rows, pairs, sums_ + row * pitch_, pitch_, !is_first_);
      }
      is_first_ = false;
    }
  }

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
  float *const panel_, *const seven_, *const sums_;
  const int64_t pitch_;
  Piece pieces_[kPiecesMax];
  int count_ = 0;
  int64_t depth_ = 0;  // of the pieces, in lanes
  bool is_first_ = true;
};

// One product of those that run together.
class Job {
 public:
  explicit Job(const Product& product)
      : product_(product), m_(c().dim(product.result.turned ? 1 : 0)), n_(c().dim(product.result.turned ? 0 : 1)),
        plan_(plan_for(product, m_, n_)),
        beside_(product.result.turned || product.terms[0].mask != nullptr || plan_.depths.mixed > 0 ||
                (c().dtype != DType::kF32 && !is_one_pass(plan_.depths.lanes))) {
    for (int t = 0; t < product.count; ++t) {
      const Term& term = product.terms[t];
      packed_[t] = is_packed(term) ? term.packed : &own_[t];
      if (packed_[t] != &own_[t]) continue;
      const Mixing mixing = comes_in_quarters(term, product.result) ? product.result.mixing : Mixing::kNone;
      own_[t].reserve(term.a, lane_of(term), term.depth, plan_.slab_rows, mixing);
    }
  }

  int64_t slabs() const { return blocks_of(m_, plan_.slab_rows); }
  int64_t scratch_floats() const { return plan_.scratch_floats(beside_); }

  // Turns to a slab; the tasks that pack its rows.
  int64_t begin_slab(int64_t slab) {
    begin_ = least(slab * plan_.slab_rows, m_);
    end_ = least(begin_ + plan_.slab_rows, m_);
    int64_t tasks = 0;
    for (int t = 0; t < product_.count; ++t)
      if (packed_[t] == &own_[t]) tasks += own_[t].begin(begin_, end_);
    return tasks;
  }
  void pack(int64_t task) {
    for (PackedRows* rows = own_;; ++rows) {
      if (task < rows->tasks()) return rows->run(task);
      task -= rows->tasks();
    }
  }

  // Of the slab.
  int64_t tasks() const { return across() * blocks_of(end_ - begin_, plan_.block_rows); }
  void run(int64_t task, float* scratch) const {
    const int64_t row = begin_ + task / across() * plan_.block_rows, column = task % across() * plan_.block_columns;
    const Block block{row, least(plan_.block_rows, end_ - row), column, least(plan_.block_columns, n_ - column)};
    float* const sums = beside_ ? scratch + plan_.panel_floats() : nullptr;
    BlockSum sum(block, product_.result, scratch, scratch + plan_.whole_floats(), sums, plan_.block_columns);
    for (int t = 0; t < product_.count; ++t) sum.add(product_.terms[t], *packed_[t], row - begin_);
    sum.finish();
  }

 private:
  const Tensor& c() const { return product_.result.c; }
  int64_t across() const { return blocks_of(n_, plan_.block_columns); }

  const Product& product_;
  const int64_t m_, n_;
  const Plan plan_;
  const bool beside_;
  int64_t begin_ = 0, end_ = 0;
  PackedRows own_[kTermsMax];
  const PackedRows* packed_[kTermsMax];
};

// Runs tasks of several jobs side by side, those that take longest first; counts: of each.
template <typename Body>
void for_each_task(const int64_t* counts, int jobs, Body body) {
  int64_t all = 0;
  for (int i = 0; i < jobs; ++i) all += counts[i];
  parallel_for(all, [&](int64_t task) {
    int job = 0;
    for (; task >= counts[job]; ++job) task -= counts[job];
    body(job, task);
  }, Share::kDealt);
}

void run_together(Few<Job, kTogetherMax>& jobs) {
  int64_t floats = 0, slabs = 0, counts[kTogetherMax];
  for (Job& job : jobs) {
    floats = job.scratch_floats() > floats ? job.scratch_floats() : floats;
    slabs = job.slabs() > slabs ? job.slabs() : slabs;
  }
  const Scratch scratch(floats, thread_count());
  for (int64_t slab = 0; slab < slabs; ++slab) {
    for (int i = 0; i < jobs.count(); ++i) counts[i] = jobs[i].begin_slab(slab);
    for_each_task(counts, jobs.count(), [&](int job, int64_t task) { jobs[job].pack(task); });
    for (int i = 0; i < jobs.count(); ++i) counts[i] = jobs[i].tasks();
    for_each_task(counts, jobs.count(), [&](int job, int64_t task) {
      const Scratch::Piece piece(scratch);
      jobs[job].run(task, piece.data());
    });
  }
}

}  // namespace

void gemm(const Product* products, int count) {
  Few<Job, kTogetherMax> jobs;
  for (const Product* p = products; p < products + count; ++p) {
    if (is_for_few_rows(p->terms, p->count, p->result)) gemm_few_rows(p, 1);
    else jobs.add(*p);
  }
  if (jobs.count() > 0) run_together(jobs);
}

void gemm(const Term* terms, int count, const Result& result) {
  const Product product{terms, count, result};
  gemm(&product, 1);
}

}  // namespace nibble::cpu::NIBBLE_ISA
