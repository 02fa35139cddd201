// Products with few rows, as in decoding: the weights' way from memory is all that counts.
#include "backends/cpu/gemm.h"
#include "backends/cpu/workspace.h"
#include "core/thread_pool.h"

namespace nibble::cpu::NIBBLE_ISA {

namespace {

constexpr int64_t kTaskElements = 1 << 16;  // weights read by one task

int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
int64_t pitch_of(int64_t depth) { return (depth + 15) / 16 * 16; }

// Running dot products of ROWS rows of x with one row of weights; two vectors each, so that adds overlap.
template <int ROWS>
struct Dots {
  Vec even[ROWS] = {}, odd[ROWS] = {};
  float rest[ROWS] = {};

  void add_even(Vec w, const float* x, int64_t pitch) {
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) even[r] = fma(w, load(x + r * pitch), even[r]);
  }
  void add_odd(Vec w, const float* x, int64_t pitch) {
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) odd[r] = fma(w, load(x + r * pitch), odd[r]);
  }
  void add_one(float w, const float* x, int64_t pitch) {
    for (int r = 0; r < ROWS; ++r) rest[r] += w * x[r * pitch];
  }
  void add_to(float* out) const {
    for (int r = 0; r < ROWS; ++r) out[r] += sum(even[r] + odd[r]) + rest[r];
  }
};

template <int ROWS, typename T>
void dot_dense(const T* w, int64_t depth, const float* x, int64_t pitch, float* out) {
  Dots<ROWS> dots;
  int64_t k = 0;
  for (; k + 2 * kWidth <= depth; k += 2 * kWidth) {
    dots.add_even(load_wide(w + k), x + k, pitch);
    dots.add_odd(load_wide(w + k + kWidth), x + k + kWidth, pitch);
  }
  for (; k < depth; ++k) dots.add_one(widen_one(w[k]), x + k, pitch);
  dots.add_to(out);
}

template <int ROWS>
void dot_codes(const Codes& codes, int64_t first, int64_t depth, const float* x, int64_t pitch, float* out) {
  Dots<ROWS> dots;
  for (int64_t e = first; e < first + depth;) {
    const int64_t block = codes.block_of(e), end = least(codes.block_end(block), first + depth);
    const Table table = codes.table(block);
    if (e % 2 == 1) {
      dots.add_one(codes.at(e, table), x + (e - first), pitch);
      ++e;
    }
    for (; e + 2 * kWidth <= end; e += 2 * kWidth) {
      const float* at = x + (e - first);
      dots.add_even(look_up(codes.bytes + e / 2, table), at, pitch);
      dots.add_odd(look_up(codes.bytes + e / 2 + kWidth / 2, table), at + kWidth, pitch);
    }
    for (; e < end; ++e) dots.add_one(codes.at(e, table), x + (e - first), pitch);
  }
  dots.add_to(out);
}

// out[r] += x[r] . row `n` of b
template <int ROWS>
void dot_row(const Matrix& b, int64_t n, int64_t depth, const float* x, float* out) {
  const int64_t first = n * b.columns, pitch = pitch_of(depth);
  if (b.codes != nullptr) return dot_codes<ROWS>(*b.codes, first, depth, x, pitch, out);
  if (b.dtype == DType::kF32)
    return dot_dense<ROWS>(static_cast<const float*>(b.data) + first, depth, x, pitch, out);
  if (b.dtype == DType::kBF16)
    return dot_dense<ROWS>(static_cast<const BFloat16*>(b.data) + first, depth, x, pitch, out);
  dot_dense<ROWS>(static_cast<const Float16*>(b.data) + first, depth, x, pitch, out);
}

template <int ROWS = kFewRows>
void dot_row_of(int64_t rows, const Matrix& b, int64_t n, int64_t depth, const float* x, float* out) {
  if constexpr (ROWS > 0) {
    if (rows == ROWS) return dot_row<ROWS>(b, n, depth, x, out);
    dot_row_of<ROWS - 1>(rows, b, n, depth, x, out);
  }
}

}  // namespace

void gemm_few_rows(const Term* terms, int count, const Result& result) {
  const int64_t m = result.c.dim(0), n = result.c.dim(1);
  int64_t floats = 0, depth = 0;
  for (int t = 0; t < count; ++t) {
    floats += m * pitch_of(terms[t].depth);
    depth += terms[t].depth;
  }
  Workspace x(floats);
  float* to = x.data();
  for (int t = 0; t < count; ++t) {
    for (int64_t r = 0; r < m; ++r, to += pitch_of(terms[t].depth)) {
      fetch(terms[t].a.matrix, r, 0, terms[t].depth, to);
    }
  }
  int64_t columns = kTaskElements / (depth > 0 ? depth : 1);  // of c in one task
  columns = columns < 1 ? 1 : columns;
  parallel_for((n + columns - 1) / columns, [&](int64_t task) {
    for (int64_t j = task * columns; j < least((task + 1) * columns, n); ++j) {
      float sums[kFewRows] = {};
      const float* from = x.data();
      for (int t = 0; t < count; ++t) {
        dot_row_of(m, terms[t].b.matrix, j, terms[t].depth, from, sums);
        from += m * pitch_of(terms[t].depth);
      }
      for (int64_t r = 0; r < m; ++r) {
        const float value = sums[r] + (result.bias != nullptr ? result.bias[j] : 0);
        put_row(result.c, r * n + j, 1, &value, result.add);
      }
    }
  });
}

}  // namespace nibble::cpu::NIBBLE_ISA
