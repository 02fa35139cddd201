// Adapters on rows of a batch that share its base: any number of them, of any ranks and layers (Punica, arXiv:2310.18547;
// S-LoRA, arXiv:2311.03285). See ops/linear.h: nothing is rounded on the way.
//
// [1] h = x A^T   [2] y += scaling * h B, for some rows of one adapter at one layer, which reads its matrices once.
#include "backends/cpu/lora.h"

#include "backends/cpu/elements.h"
#include "backends/cpu/lora_pairs.h"
#include "backends/cpu/ops.h"
#include "core/thread_pool.h"
#include "ops/linear.h"

namespace nibble::cpu::NIBBLE_ISA {

namespace {

constexpr int64_t kPieceRows = 16;  // of x at most
constexpr int kSquare = 4;          // rows of x, and of A, whose products are summed together

#if defined(__AVX512BF16__)
static inline __m512bh load_pairs(const Bf16* p, int64_t count) {
  if (count >= 2 * kWidth) return (__m512bh)_mm512_loadu_si512(p);
  return (__m512bh)_mm512_maskz_loadu_epi16((__mmask32{1} << count) - 1, p);
}

// sums[m][r] = row m of x . row r of a, two products of a lane at a time; both are bfloat16, so products are exact.
template <int M, int R>
static inline void dot(const Bf16* x, const Bf16* a, int64_t columns, Vec (&sums)[M][R]) {
  for (int64_t k = 0; k < columns; k += 2 * kWidth) {
    __m512bh w[R];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) w[r] = load_pairs(a + r * columns + k, columns - k);
#pragma GCC unroll 4
    for (int m = 0; m < M; ++m) {
      const __m512bh row = load_pairs(x + m * columns + k, columns - k);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) sums[m][r] = (Vec)_mm512_dpbf16_ps((__m512)sums[m][r], w[r], row);
    }
  }
}
#endif

template <int M, int R, typename X, typename W>
static inline void dot(const X* x, const W* a, int64_t columns, Vec (&sums)[M][R]) {
  each_vector(0, columns, [&](int64_t k, int n) NIBBLE_INLINE {
    Vec w[R];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) w[r] = load(a + r * columns + k, n);
#pragma GCC unroll 4
    for (int m = 0; m < M; ++m) {
      const Vec row = load(x + m * columns + k, n);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) sums[m][r] = fma(w[r], row, sums[m][r]);
    }
  });
}

// h[m, r] = row m of x . row r of a, for M rows of x and R of a. An element's sum is the same whatever M and R are.
template <int M, int R, typename X, typename W>
void shrink_tile(const X* x, const W* a, int64_t columns, float* h, int64_t rank) {
  Vec sums[M][R] = {};
  dot(x, a, columns, sums);
  for (int m = 0; m < M; ++m)
    for (int r = 0; r < R; ++r) h[m * rank + r] = sum(sums[m][r]);
}

// From row r of a on, as many times R as there are; the row after them.
template <int M, int R, typename X, typename W>
int64_t shrink_ranks(const X* x, const W* a, int64_t columns, float* h, int64_t rank, int64_t r) {
  for (; rank - r >= R; r += R) shrink_tile<M, R>(x, a + r * columns, columns, h + r, rank);
  return r;
}

// As many rows of A at once as registers hold sums, for one row of x; the row after them.
template <typename X, typename W>
int64_t shrink_groups(const X*, const W*, int64_t, float*, int64_t) {
  return 0;
}
#if defined(__AVX512BF16__)
int64_t shrink_groups(const Bf16* x, const Bf16* a, int64_t columns, float* h, int64_t rank) {
  int64_t r = 0;
  for (; rank - r >= kGroup; r += kGroup) shrink_group(&x->bits, &a[r * columns].bits, columns, h + r);
  return r;
}
#endif

template <typename X, typename W>
void shrink(const X* x, int64_t rows, const W* a, int64_t columns, float* h, int64_t rank) {
  for (; rows >= kSquare; rows -= kSquare, x += kSquare * columns, h += kSquare * rank) {
    const int64_t r = shrink_ranks<kSquare, kSquare>(x, a, columns, h, rank, 0);
    shrink_ranks<kSquare, 1>(x, a, columns, h, rank, r);
  }
  for (; rows > 0; --rows, x += columns, h += rank) {
    int64_t r = shrink_groups(x, a, columns, h, rank);
    r = shrink_ranks<1, kSquare>(x, a, columns, h, rank, r);
    shrink_ranks<1, 1>(x, a, columns, h, rank, r);
  }
}

// y[m, o] += scaling * sum over r of h[m, r] b[r, o], for M rows and V vectors of columns, the last of n lanes. An element's
// sum goes in the order of r, whatever M and V are.
template <int M, int V, typename Y, typename W>
NIBBLE_INLINE static inline void expand_block(const float* h, const W* b, int64_t rank, float scaling, Y* y, int64_t out,
                                              int n) {
  Vec sums[M][V] = {};
#pragma GCC unroll 4
  for (int64_t r = 0; r < rank; ++r, b += out) {
    Vec w[V];
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) w[v] = load(b + v * kWidth, v + 1 < V ? kWidth : n);
#pragma GCC unroll 4
    for (int m = 0; m < M; ++m) {
      const Vec row = splat(h[m * rank + r]);
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) sums[m][v] = fma(row, w[v], sums[m][v]);
    }
  }
#pragma GCC unroll 4
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) {
      Y* const at = y + m * out + v * kWidth;
      const int lanes = v + 1 < V ? kWidth : n;
      store(at, fma(splat(scaling), sums[m][v], load(at, lanes)), lanes);
    }
  }
}

template <int M, typename Y, typename W>
void expand_tile(const float* h, const W* b, int64_t rank, float scaling, Y* y, int64_t out, int64_t columns) {
  int64_t o = 0;
  for (; o + 2 * kWidth <= columns; o += 2 * kWidth) expand_block<M, 2>(h, b + o, rank, scaling, y + o, out, kWidth);
  each_vector(o, columns, [&](int64_t i, int n) NIBBLE_INLINE {
    expand_block<M, 1>(h, b + i, rank, scaling, y + i, out, n);
  });
}

// The first `columns` of y and b.
template <typename Y, typename W>
void expand(const float* h, int64_t rows, const W* b, int64_t rank, float scaling, Y* y, int64_t out, int64_t columns) {
  for (; rows >= kSquare; rows -= kSquare, h += kSquare * rank, y += kSquare * out)
    expand_tile<kSquare>(h, b, rank, scaling, y, out, columns);
  for (; rows > 0; --rows, h += rank, y += out) expand_tile<1>(h, b, rank, scaling, y, out, columns);
}

// Whether [2] goes by pairs, the parts of whose h are in the place of h.
template <typename W>
constexpr bool kByPairs = false;
#if defined(__AVX512BF16__)
template <>
constexpr bool kByPairs<Bf16> = true;
#endif

}  // namespace

int64_t LoraPiece::space_of(int64_t rows, int64_t rank) { return rows * (rank + pair_space(rank)); }

template <typename X, typename W>
void LoraPiece::shrink_as() const {
  const int64_t in = a_->x.dim(1);
  nibble::cpu::NIBBLE_ISA::shrink(data_as<X>(a_->x) + row_ * in, rows_, data_as<W>(a_->a), in, h_, rank());
  if constexpr (kByPairs<W>) {
    for (int64_t row = 0; row < rows_; ++row)
      split_pairs(h_ + row * rank(), rank(), parts() + row * pair_space(rank()));
  }
}

template <typename Y, typename W>
void LoraPiece::expand_as(int64_t begin, int64_t end) const {
  const W* const b = data_as<W>(a_->b) + begin;
  Y* const y = data_as<Y>(a_->y) + row_ * out() + begin;
  if constexpr (kByPairs<W>) expand_pairs(parts(), rows_, &b->bits, rank(), a_->scaling, y, out(), end - begin);
  else nibble::cpu::NIBBLE_ISA::expand(h_, rows_, b, rank(), a_->scaling, y, out(), end - begin);
}

void LoraPiece::shrink() const {
  with_type(a_->x.dtype, [&](auto x) {
    with_type(a_->a.dtype, [&](auto w) { shrink_as<decltype(x), decltype(w)>(); });
  });
}

void LoraPiece::expand(int64_t begin, int64_t end) const {
  with_type(a_->x.dtype, [&](auto y) {
    with_type(a_->a.dtype, [&](auto w) { expand_as<decltype(y), decltype(w)>(begin, end); });
  });
}

void LoraPiece::ask_b(int64_t begin, int64_t end, Ahead& ahead) const {
  const int64_t each = size_of(a_->b.dtype);
  for (int64_t at = begin * each; at < end * each; at += Ahead::kLine) ahead.add(a_->b.u8() + at, out() * each, rank());
}

LoraPieces::LoraPieces(const LoraAddArgs* adds, int count) {
  int64_t h_floats = 0;
  for (const LoraAddArgs* a = adds; a < adds + count; ++a) {
    for (int64_t row = a->begin; row < a->end; row += kPieceRows, ++count_)
      h_floats += LoraPiece::space_of(least(kPieceRows, a->end - row), a->a.dim(0));
  }
  const int64_t piece_floats = count_ * int64_t{sizeof(LoraPiece) / sizeof(float)};
  space_.reserve(piece_floats + h_floats);
  auto* piece = reinterpret_cast<LoraPiece*>(space_.data());
  float* h = space_.data() + piece_floats;
  for (const LoraAddArgs* a = adds; a < adds + count; ++a) {
    for (int64_t row = a->begin; row < a->end; row += kPieceRows) {
      const int64_t rows = least(kPieceRows, a->end - row);
      *piece++ = {*a, row, rows, h};
      h += LoraPiece::space_of(rows, a->a.dim(0));
    }
  }
}

void LoraPieces::run() const {
  parallel_for(count_, [&](int64_t i) {
    (*this)[i].shrink();
    (*this)[i].expand();
  });
}

void lora_adds(const LoraAddArgs* args, int count) { LoraPieces(args, count).run(); }

}  // namespace nibble::cpu::NIBBLE_ISA
