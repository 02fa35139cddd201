#include "backends/cpu/pack.h"

#include "backends/cpu/transpose.h"
#include "core/thread_pool.h"

namespace nibble::cpu::NIBBLE_ISA {

namespace {

constexpr int64_t kGroup = 64;     // rows of A turned at once
constexpr int64_t kPackRows = 64;  // of A in one task
constexpr int64_t kAheadRows = 16;

// Of |row[k]|, over whole vectors.
float largest(const float* row, int64_t depth) {
  Vec top{};
  for (int64_t k = 0; k < depth; k += kWidth) {
    const Vec v = load(row + k), size = v < 0 ? -v : v;
    top = size > top ? size : top;
  }
  return fold(top, [](auto a, auto b) { return a > b ? a : b; });
}

void clear(float* p, int64_t count) { memset(p, 0, size_t(count) * 4); }

// `depth` elements of a storage row along k, as lanes.
void fetch_lanes(const Matrix& m, Lane lane, int64_t row, int64_t column, int64_t depth, float* to) {
  if (lane == Lane::kFloat) return fetch(m, row, column, depth, to);
  uint16_t* const pairs = reinterpret_cast<uint16_t*>(to);
  fetch_bf16(m, row, column, depth, pairs);
  if (depth % 2 == 1) pairs[depth] = 0;
}

// Asks memory for a later row of plain storage: short pieces far apart are no stream that the processor sees by itself.
void ask_ahead(const Matrix& m, int64_t row, int64_t column, int64_t columns) {
  if (m.codes != nullptr) return;  // whoever decodes them does it
  const int64_t element = size_of(m.dtype);
  const uint8_t* const at = static_cast<const uint8_t*>(m.data) + ((row + kAheadRows) * m.columns + column) * element;
  for (int64_t i = 0; i < columns * element; i += 64) __builtin_prefetch(at + i);
}

// Storage rows are k: copied into each strip.
void pack_straight(const Operand& b, int64_t column, int64_t columns, int64_t k0, int64_t depth, float* to) {
  alignas(64) float row[kPanelColumns];
  const int64_t strips = (columns + kTileColumns - 1) / kTileColumns;
  clear(row, strips * kTileColumns);
  for (int64_t k = 0; k < depth; ++k) {
    ask_ahead(b.matrix, k0 + k, column, columns);
    fetch(b.matrix, k0 + k, column, columns, row);
    for (int64_t s = 0; s < strips; ++s)
      memcpy(to + (s * depth + k) * kTileColumns, row + s * kTileColumns, kTileColumns * 4);
  }
}

// A storage row's bfloat16 numbers: where they lie, or decoded into `space`.
const uint16_t* bf16_row(const Matrix& m, int64_t row, int64_t column, int64_t columns, uint16_t* space) {
  if (m.is_plain() && columns % kTileColumns == 0) {
    ask_ahead(m, row, column, columns);
    return static_cast<const uint16_t*>(m.data) + row * m.columns + column;
  }
  fetch_bf16(m, row, column, columns, space);
  return space;
}

// The same in pairs: elements of two storage rows alternate.
void pack_straight_pairs(const Operand& b, int64_t column, int64_t columns, int64_t k0, int64_t depth, float* to) {
  alignas(64) uint16_t even_space[kPanelColumns] = {}, odd_space[kPanelColumns] = {};
  alignas(64) static const uint16_t nothing[kPanelColumns] = {};
  const int64_t strips = (columns + kTileColumns - 1) / kTileColumns, lanes = lanes_of(Lane::kPair, depth);
  for (int64_t l = 0; l < lanes; ++l) {
    const uint16_t* even = bf16_row(b.matrix, k0 + 2 * l, column, columns, even_space);
    const bool is_whole = 2 * l + 1 < depth;
    const uint16_t* odd = is_whole ? bf16_row(b.matrix, k0 + 2 * l + 1, column, columns, odd_space) : nothing;
    for (int64_t s = 0; s < strips; ++s) {
      Vec first, second;
      interleave(even + s * kTileColumns, odd + s * kTileColumns, first, second);
      float* const at = to + (s * lanes + l) * kTileColumns;
      store(at, first);
      store(at + kWidth, second);
    }
  }
}

// Storage rows are n: read kWidth of them, a part of the depth at a time, then turned.
void pack_turned(const Operand& b, Lane lane, int64_t column, int64_t columns, int64_t k0, int64_t depth, float* to) {
  constexpr int64_t kPart = 256;          // lanes: the rows stay in the first-level cache
  constexpr int64_t kPitch = kPart + 16;  // no power of two: rows would share the sets of the cache
  alignas(64) float rows[kWidth * kPitch];
  const int64_t lanes = lanes_of(lane, depth), each = elements_of(lane);
  for (int64_t j = 0; j < columns; j += kWidth) {
    float* const strip = to + j / kTileColumns * lanes * kTileColumns + j % kTileColumns;
    const int64_t count = least(kWidth, columns - j);
    if (count < kWidth) clear(rows + count * kPitch, (kWidth - count) * kPitch);
    for (int64_t l = 0; l < lanes; l += kPart) {
      const int64_t k = l * each, of_part = least(kPart * each, depth - k);
      for (int64_t i = 0; i < count; ++i) fetch_lanes(b.matrix, lane, column + j + i, k0 + k, of_part, rows + i * kPitch);
      transpose_rows(rows, kPitch, kWidth, least(kPart, lanes - l), strip + l * kTileColumns, kTileColumns);
    }
  }
}

// Storage rows are k: each gives one element of every row.
void pack_rows_turned(const Operand& a, int64_t row, int64_t rows, int64_t k0, int64_t depth, float* to,
                      int64_t pitch) {
  alignas(64) float part[kWidth * kGroup];
  for (int64_t r = 0; r < rows; r += kGroup) {
    const int64_t group = least(kGroup, rows - r);
    for (int64_t k = 0; k < depth; k += kWidth) {
      const int64_t count = least(kWidth, depth - k);
      for (int64_t i = 0; i < count; ++i) fetch(a.matrix, k0 + k + i, row + r, group, part + i * kGroup);
      transpose_rows(part, kGroup, count, group, to + r * pitch + k, pitch);
    }
  }
}

// The same in pairs: for an adapter's few rows.
void pack_rows_turned_pairs(const Operand& a, int64_t row, int64_t rows, int64_t k0, int64_t depth, float* to,
                            int64_t pitch) {
  uint16_t part[kGroup];
  uint16_t* const pairs = reinterpret_cast<uint16_t*>(to);
  for (int64_t r = 0; r < rows; r += kGroup) {
    const int64_t group = least(kGroup, rows - r);
    for (int64_t k = 0; k < depth; ++k) {
      fetch_bf16(a.matrix, k0 + k, row + r, group, part);
      for (int64_t i = 0; i < group; ++i) pairs[(r + i) * 2 * pitch + k] = part[i];
    }
    for (int64_t i = 0; depth % 2 == 1 && i < group; ++i) pairs[(r + i) * 2 * pitch + depth] = 0;
  }
}

}  // namespace

void pack_rows(const Operand& a, Lane lane, int64_t row, int64_t rows, int64_t k0, int64_t depth, float* to,
               int64_t pitch) {
  if (a.along_k) {
    for (int64_t r = 0; r < rows; ++r) fetch_lanes(a.matrix, lane, row + r, k0, depth, to + r * pitch);
  } else if (lane == Lane::kPair) {
    pack_rows_turned_pairs(a, row, rows, k0, depth, to, pitch);
  } else {
    pack_rows_turned(a, row, rows, k0, depth, to, pitch);
  }
}

bool PackedRows::lies_packed() const {
  const Matrix& m = a_.matrix;
  const bool is_aligned = reinterpret_cast<uintptr_t>(m.data) % sizeof(float) == 0;  // a slice of bfloat16 may not be
  return a_.along_k && m.is_plain() && is_aligned && rows_lie_packed(m.dtype, m.columns, depth_, lane_ == Lane::kPair);
}

// A run of those that are mixed.
int64_t PackedRows::rows_of_task() const { return mixes() ? 2 * kQuarterRows : kPackRows; }

void PackedRows::reserve(const Operand& a, Lane lane, int64_t depth, int64_t rows_max, Mixing mixing) {
  a_ = a;
  lane_ = lane;
  depth_ = depth;
  mixing_ = mixing;
  if (lies_packed()) return;
  const Blocks blocks = blocks_of(lane, depth);
  pitch_ = blocks.pitch;
  space_.reserve(mixes() ? blocks.mixed_floats(rows_max) : blocks.packed_floats(rows_max));
}

int64_t PackedRows::begin(int64_t begin, int64_t end) {
  const Blocks blocks = blocks_of(lane_, depth_);
  begin_ = begin;
  rows_ = end - begin;
  if (lies_packed()) {
    pitch_ = a_.matrix.columns / elements_of(lane_);
    block_step_ = blocks.depth / elements_of(lane_);
    base_ = static_cast<const float*>(a_.matrix.data) + begin * pitch_;
    return tasks_ = 0;
  }
  base_ = space_.data();
  block_step_ = rows_ * pitch_;
  return tasks_ = blocks.count * blocks_of(rows_, rows_of_task());
}

void PackedRows::run(int64_t task) {
  const Blocks blocks = blocks_of(lane_, depth_);
  const int64_t groups = blocks_of(rows_, rows_of_task()), block = task / groups, row = task % groups * rows_of_task();
  const int64_t k0 = block * blocks.depth, depth = least(blocks.depth, depth_ - k0);
  float* const to = space_.data() + block * block_step_ + row * pitch_;
  pack_rows(a_, lane_, begin_ + row, least(rows_of_task(), rows_ - row), k0, depth, to, pitch_);
  if (mixes()) mix(block, row, depth);
}

// The sums of a run of rows, while they are in the cache.
void PackedRows::mix(int64_t block, int64_t row, int64_t depth) {
  const int64_t pitch = blocks_of(lane_, depth_).mixed_pitch(), end = least(row + 2 * kQuarterRows, rows_);
  const bool is_apart = mixing_ == Mixing::kAlike && differ(block, row, end - row, depth);
  apart(block)[row / (2 * kQuarterRows)] = is_apart;
  for (; row < end && !is_apart; row += run_of(end - row)) {
    const int64_t half = run_of(end - row) / 2;
    const float* const upper = at(block, row);
    float* const sums = mixed(block) + row / 2 * pitch;
    for (int64_t i = 0; i < half; ++i)
      mix_rows(upper + i * pitch_, upper + (half + i) * pitch_, depth / 2, sums + i * pitch, mixed_step());
  }
}

float* PackedRows::mixed(int64_t block) const {
  const int64_t of_block = 4 * mixed_step() + blocks_of(rows_, 2 * kQuarterRows);
  return space_.data() + blocks_of(lane_, depth_).count * block_step_ + block * of_block;
}

// Whether some rows are that much larger than others that these would lose what bfloat16 keeps.
bool PackedRows::differ(int64_t block, int64_t row, int64_t rows, int64_t depth) const {
  constexpr float kAlike = 256;
  float lowest = 0, highest = 0;
  for (int64_t r = row; r < row + rows; ++r) {
    const float of_row = largest(at(block, r), depth);
    if (of_row > highest) highest = of_row;
    if (of_row > 0 && (lowest == 0 || of_row < lowest)) lowest = of_row;
  }
  return !(highest <= kAlike * lowest);
}

void PackedRows::place(Quarters& quarters, int64_t block, int64_t row) const {
  const Blocks blocks = blocks_of(lane_, depth_);
  const int64_t pitch = blocks.mixed_pitch(), depth = least(blocks.depth, depth_ - block * blocks.depth);
  const Quarters::Run sums{mixed(block) + row / 2 * pitch, pitch};
  quarters.apart = apart(block)[row / (2 * kQuarterRows)] != 0;
  place_rows(quarters, {at(block, row), pitch_}, run_of(rows_ - row) / 2, depth / 2, sums, mixed_step());
}

void PackedRows::pack(int64_t begin, int64_t end) {
  parallel_for(this->begin(begin, end), [&](int64_t task) { run(task); });
}

void pack_columns(const Operand& b, Lane lane, int64_t column, int64_t columns, int64_t k0, int64_t depth, float* to) {
  if (b.along_k) return pack_turned(b, lane, column, columns, k0, depth, to);
  if (lane == Lane::kPair) return pack_straight_pairs(b, column, columns, k0, depth, to);
  pack_straight(b, column, columns, k0, depth, to);
}

void pack_quarters(const Operand& b, int64_t column, int64_t columns, int64_t k0, int64_t depth, float* to) {
  const int64_t halves = columns * (depth / 2);
  pack_columns(b, Lane::kFloat, column, columns, k0, depth / 2, to);
  pack_columns(b, Lane::kFloat, column, columns, k0 + depth / 2, depth / 2, to + halves);
  mix_columns(to, kTileColumns * (depth / 2), columns / (2 * kTileColumns));
}

}  // namespace nibble::cpu::NIBBLE_ISA
