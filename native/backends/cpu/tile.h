// Products of matrices small enough for the cache, and moves of rows in and out of them: the inner
// loops of attention. Scratch rows are padded with zeros to whole vectors. Every element of a product
// is summed in the order of depth, whatever the tile's shape: neighbours do not change its bits.
#pragma once

#include "backends/cpu/elements.h"
#include "backends/cpu/lane.h"
#include "core/tensor.h"

namespace nibble::cpu::NIBBLE_ISA {

// Rows and vectors of a product that stay in registers: 24 of 32, or 12 of 16.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kTileVectors = 4;
#else
constexpr int kTileVectors = 2;
#endif
constexpr int kTileRows = 6;

static inline int64_t vectors_of(int64_t floats) { return (floats + kWidth - 1) / kWidth; }

// Columns and depth count lanes; element (row, column) lies at data[row * row_step + column * column_step].
struct Strided {
  const float* data;
  int64_t row_step, column_step;
};

// Rows of whole vectors.
struct Packed {
  const float* data;
  int64_t row_step;
};

// Where sums of a product go: c = a b or, `add`, c += a b. What else takes them, while they are in registers, has the same two
// functions.
struct Product {
  float* c;
  int64_t c_step;
  bool add;

  // What the sums of R rows and V vectors, from vector v on, begin with.
  template <int R, int V>
  NIBBLE_INLINE void begin(Vec (&sum)[R][V], int64_t v) const {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
      for (int i = 0; i < V; ++i) sum[r][i] = add ? load(c + r * c_step + (v + i) * kWidth) : Vec{};
  }
  template <int R, int V>
  NIBBLE_INLINE void end(const Vec (&sum)[R][V], int64_t v) const {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
      for (int i = 0; i < V; ++i) store(c + r * c_step + (v + i) * kWidth, sum[r][i]);
  }
};

// The beginning of those that only take sums.
struct FromZero {
  template <int R, int V>
  NIBBLE_INLINE void begin(Vec (&sum)[R][V], int64_t) const {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
      for (int i = 0; i < V; ++i) sum[r][i] = Vec{};
  }
};

// One step of depth of a tile: a factor of each row times V vectors.
template <Lane LANE, int R, int V>
NIBBLE_INLINE static inline void add_products(const float* factors, int64_t step, const Vec (&other)[V], Vec (&sum)[R][V]) {
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    const Vec factor = splat(factors[r * step]);
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sum[r][v] = multiply_add<LANE>(factor, other[v], sum[r][v]);
  }
}

// R rows of a product from vector v on: tiles of V vectors, then one of the rest.
template <Lane LANE, int R, int V, typename Out>
NIBBLE_INLINE static inline void tiles(const float* a, int64_t row_step, int64_t column_step, const float* b, int64_t b_step,
                                       int64_t v, int64_t vectors, int64_t depth, Out& out) {
  for (; v + V <= vectors; v += V) {
    Vec sum[R][V];
    out.begin(sum, v);
    const float* from = a;
    const float* row = b + v * kWidth;
    for (int64_t k = 0; k < depth; ++k, from += column_step, row += b_step) {
      Vec other[V];
      for (int i = 0; i < V; ++i) other[i] = load(row + i * kWidth);
      add_products<LANE>(from, row_step, other, sum);
    }
    out.end(sum, v);
  }
  if constexpr (V > 1) {
    if (v < vectors) tiles<LANE, R, V - 1>(a, row_step, column_step, b, b_step, v, vectors, depth, out);
  }
}

// Not inlined, and without structs: within a larger function GCC keeps some of the sums in memory, and a struct that was just
// written by halves is waited for when it is copied whole.
template <Lane LANE, int R, typename Out>
__attribute__((noinline)) static void product_rows(const float* a, int64_t row_step, int64_t column_step, const float* b,
                                                   int64_t b_step, int64_t vectors, int64_t depth, Out& out) {
  tiles<LANE, R, kTileVectors>(a, row_step, column_step, b, b_step, 0, vectors, depth, out);
}

// a b for 1 to kTileRows rows of a and `vectors` vectors of each row of b, to `out`.
template <Lane LANE, int R = kTileRows, typename Out>
static inline void multiply(int64_t rows, int64_t vectors, const Strided& a, const Packed& b, int64_t depth, Out& out) {
  if constexpr (R > 1) {
    if (rows < R) return multiply<LANE, R - 1>(rows, vectors, a, b, depth, out);
  }
  product_rows<LANE, R>(a.data, a.row_step, a.column_step, b.data, b.row_step, vectors, depth, out);
}

template <int... L>
struct Lanes {};
#if defined(__AVX512F__)
using AllLanes = Lanes<0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15>;
#elif defined(__AVX2__)
using AllLanes = Lanes<0, 1, 2, 3, 4, 5, 6, 7>;
#else
using AllLanes = Lanes<0, 1, 2, 3>;
#endif

// Exchanges the off-diagonal squares of Step lanes, for all pairs of rows that lie Step apart. Shuffles
// number the lanes of the pair 0 ... 2 kWidth - 1, and are constants: few sets can shuffle by a variable.
template <int Step, int... L>
static inline void exchange(Vec* row, Lanes<L...> lanes) {
#pragma GCC unroll 16
  for (int r = 0; r < kWidth; ++r) {
    if (r & Step) continue;
    const Vec upper = row[r], lower = row[r + Step];
    row[r] = __builtin_shufflevector(upper, lower, (L & Step ? kWidth + L - Step : L)...);
    row[r + Step] = __builtin_shufflevector(upper, lower, (L & Step ? kWidth + L : L + Step)...);
  }
  if constexpr (Step * 2 < kWidth) exchange<Step * 2>(row, lanes);
}

// to[c][r] = from[r][column + c] for a square of kWidth: log2(kWidth) rounds of exchanges.
static inline void transpose_square(const float* const* from, int64_t column, float* to, int64_t to_step) {
  Vec row[kWidth];
  for (int r = 0; r < kWidth; ++r) row[r] = load(from[r] + column);
  exchange<1>(row, AllLanes{});
  for (int r = 0; r < kWidth; ++r) store(to + r * to_step, row[r]);
}

// to [columns, rows] = the rows that begin at from[r], transposed; both counts are whole vectors.
static inline void transpose(const float* const* from, int64_t rows, int64_t columns, float* to, int64_t to_step) {
  for (int64_t r = 0; r < rows; r += kWidth)
    for (int64_t c = 0; c < columns; c += kWidth) transpose_square(from + r, c, to + c * to_step + r, to_step);
}

// The same for rows that lie next to each other.
static inline void transpose(const float* from, int64_t rows, int64_t columns, float* to, int64_t to_step) {
  const float* row[kWidth];
  for (int64_t r = 0; r < rows; r += kWidth) {
    for (int64_t i = 0; i < kWidth; ++i) row[i] = from + (r + i) * columns;
    transpose(row, kWidth, columns, to + r, to_step);
  }
}

template <typename T>
static inline void widen_row(const T* from, int64_t count, float* out) {
  each_vector(0, count, [&](int64_t i, int n) NIBBLE_INLINE { store(out + i, load(from + i, n)); });
}

// `count` elements as float32, then zeros up to a whole vector.
static inline void load_row(const Tensor& t, int64_t start, int64_t count, float* out) {
  if (t.dtype == DType::kF32) widen_row(t.f32() + start, count, out);
  else widen_row(data_as<Bf16>(t) + start, count, out);
}

// `count` bfloat16 elements as pairs, then zeros up to a whole vector.
static inline void load_pairs(const Tensor& t, int64_t start, int64_t count, float* out) {
  const uint16_t* from = t.u16() + start;
  for (; count >= 2 * kWidth; count -= 2 * kWidth, from += 2 * kWidth, out += kWidth) memcpy(out, from, sizeof(Vec));
  if (count == 0) return;
  store(out, Vec{});
  memcpy(out, from, size_t(count) * 2);
}

template <Lane LANE>
static inline void load_lanes(const Tensor& t, int64_t start, int64_t count, float* out) {
  if constexpr (LANE == Lane::kPair) load_pairs(t, start, count, out);
  else load_row(t, start, count, out);
}

// to [columns] = pairs of two rows of bfloat16 numbers; without an odd one, the even one meets zeros.
static inline void pair_two(const float* even_row, const float* odd_row, int64_t columns, float* to) {
  static const uint16_t nothing[2 * kWidth] = {};
  const auto *even = reinterpret_cast<const uint16_t*>(even_row), *odd = reinterpret_cast<const uint16_t*>(odd_row);
  int64_t c = 0;
  for (; c + 2 * kWidth <= columns; c += 2 * kWidth) {
    Vec first, second;
    interleave(even + c, odd != nullptr ? odd + c : nothing, first, second);
    store(to + c, first);
    store(to + c + kWidth, second);
  }
  for (; c < columns; c += kWidth) store(to + c, interleave(even + c, odd != nullptr ? odd + c : nothing));
}

// to [rows / 2, columns] = pairs of the rows of `from` [rows, from_step lanes] of bfloat16.
static inline void pair_rows(const float* from, int64_t from_step, int64_t rows, int64_t columns, float* to) {
  for (int64_t r = 0; r < rows; r += 2, to += columns)
    pair_two(from + r * from_step, r + 1 < rows ? from + (r + 1) * from_step : nullptr, columns, to);
}

static inline void store_row(const float* in, int64_t count, const Tensor& t, int64_t start) {
  with_type(t.dtype, [&](auto type) {
    auto* const to = data_as<decltype(type)>(t) + start;
    each_vector(0, count, [&](int64_t i, int n) NIBBLE_INLINE { store(to + i, load(in + i, n), n); });
  });
}

static inline void clear_rows(float* at, int64_t floats) {
  for (int64_t i = 0; i < floats; i += kWidth) store(at + i, Vec{});
}

}  // namespace nibble::cpu::NIBBLE_ISA
