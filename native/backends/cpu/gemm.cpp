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

// A block of C while it is summed: c itself, or scratch where c is bfloat16 or a term is masked.
struct Block {
  int64_t row, rows, column, columns;  // of c
  float* sums;
  int64_t pitch;
  bool is_scratch;  // then whole tiles may be written
};

void begin_block(const Block& block, const Result& result) {
  if (result.bias == nullptr) return;
  const bool keep = result.add && !block.is_scratch;
  for (int64_t r = 0; r < block.rows; ++r) {
    float* row = block.sums + r * block.pitch;
    for (int64_t j = 0; j < block.columns; ++j) row[j] = (keep ? row[j] : 0) + result.bias[block.column + j];
  }
}

// c[column, row] += the block.
void add_turned(const Block& block, const Tensor& c) {
  for (int64_t j = 0; j < block.columns; ++j) {
    float* to = c.f32() + (block.column + j) * c.dim(1) + block.row;
    for (int64_t r = 0; r < block.rows; ++r) to[r] += block.sums[r * block.pitch + j];
  }
}

void end_block(const Block& block, const Result& result) {
  if (!block.is_scratch) return;
  if (result.turned) return add_turned(block, result.c);
  const int64_t n = result.c.dim(1);
  for (int64_t r = 0; r < block.rows; ++r)
    put_row(result.c, (block.row + r) * n + block.column, block.columns, block.sums + r * block.pitch, result.add);
}

void mask_block(const Block& block, const Dropout& mask, int64_t n) {
  for (int64_t r = 0; r < block.rows; ++r)
    apply_dropout(mask, (block.row + r) * n + block.column, block.columns, block.sums + r * block.pitch);
}

// A tile that C does not wholly hold was summed beside it.
void merge_tile(const float* tile, int64_t rows, int64_t columns, float* c, int64_t pitch, bool add) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t j = 0; j < columns; ++j)
      c[r * pitch + j] = add ? c[r * pitch + j] + tile[r * kTileColumns + j] : tile[r * kTileColumns + j];
}

// Adds one block of depth, in lanes: every tile of the block of C.
template <Lane LANE>
void sum_tiles(const Block& block, const float* a, int64_t a_pitch, const float* b, int64_t depth, bool add) {
  const int64_t step = blocks_of(block.rows, blocks_of(block.rows, kTileRows));  // tiles of even height
  for (int64_t r = 0; r < block.rows; r += step) {
    const int64_t rows = least(step, block.rows - r);
    for (int64_t j = 0; j < block.columns; j += kTileColumns) {
      const int64_t columns = least(kTileColumns, block.columns - j);
      const bool whole = block.is_scratch || columns == kTileColumns || columns == kWidth;
      alignas(64) float tile[kTileRows * kTileColumns];
      float* const to = block.sums + r * block.pitch + j;
      float* const c = whole ? to : tile;
      const int64_t pitch = whole ? block.pitch : kTileColumns;
      const auto product = columns <= kWidth ? tile_product_of<LANE, 1> : tile_product_of<LANE, 2>;
      product(rows, depth, a + r * a_pitch, a_pitch, b + j * depth, c, pitch, add && whole);
      if (!whole) merge_tile(tile, rows, columns, to, block.pitch, add);
    }
  }
}

void sum_block(const Block& block, const Term* terms, int count, const Result& result, const PackedRows* const* packed,
               int64_t packed_row, float* panel) {
  bool add = result.bias != nullptr || (result.add && !block.is_scratch);
  begin_block(block, result);
  for (int t = 0; t < count; ++t) {
    const Lane lane = lane_of(terms[t]);
    const Blocks blocks = blocks_of(lane, terms[t].depth);
    for (int64_t i = 0; i < blocks.count; ++i) {
      const int64_t k0 = i * blocks.depth, depth = least(blocks.depth, terms[t].depth - k0);
      const int64_t lanes = blocks_of(depth, elements_of(lane));
      pack_columns(terms[t].b, lane, block.column, block.columns, k0, depth, panel);
      const auto sum = lane == Lane::kPair ? sum_tiles<Lane::kPair> : sum_tiles<Lane::kFloat>;
      sum(block, packed[t]->at(i, packed_row), packed[t]->pitch(), panel, lanes, add);
      add = true;
    }
    if (terms[t].mask != nullptr) mask_block(block, *terms[t].mask, result.c.dim(1));
  }
  end_block(block, result);
}

}  // namespace

void gemm(const Term* terms, int count, const Result& result) {
  if (is_for_few_rows(terms, count, result)) {
    const Product product{terms, count, result};
    return gemm_few_rows(&product, 1);
  }
  const int64_t m = result.c.dim(result.turned ? 1 : 0), n = result.c.dim(result.turned ? 0 : 1);
  const Plan plan = plan_for(terms, count, m, n);
  // Summed in scratch.
  const bool beside = result.c.dtype != DType::kF32 || terms[0].mask != nullptr || result.turned;
  PackedRows own[kTermsMax];
  const PackedRows* packed[kTermsMax];
  for (int t = 0; t < count; ++t) {
    packed[t] = is_packed(terms[t]) ? terms[t].packed : &own[t];
    if (!is_packed(terms[t])) own[t].reserve(terms[t].a, lane_of(terms[t]), terms[t].depth, plan.slab_rows);
  }
  const int64_t panel = plan.panel_floats();
  Scratch scratch(plan.scratch_floats(beside), thread_count());
  for (int64_t begin = 0; begin < m; begin += plan.slab_rows) {
    const int64_t end = least(begin + plan.slab_rows, m);
    for (int t = 0; t < count; ++t)
      if (packed[t] == &own[t]) own[t].pack(begin, end);
    const int64_t across = blocks_of(n, plan.block_columns);
    parallel_for(across * blocks_of(end - begin, plan.block_rows), [&](int64_t task) {
      const Scratch::Piece piece(scratch);
      const int64_t row = begin + task / across * plan.block_rows, column = task % across * plan.block_columns;
      Block block{.row = row, .rows = least(plan.block_rows, end - row), .column = column,
                  .columns = least(plan.block_columns, n - column), .sums = piece.data() + panel,
                  .pitch = plan.block_columns, .is_scratch = beside};
      if (!beside) {
        block.sums = result.c.f32() + row * n + column;
        block.pitch = n;
      }
      sum_block(block, terms, count, result, packed, row - begin, piece.data());
    });
  }
}

}  // namespace nibble::cpu::NIBBLE_ISA
