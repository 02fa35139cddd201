// Adapters on rows of a batch that share its base: any number of them, of any ranks and layers, in one pass over their
// matrices (Punica, arXiv:2310.18547; S-LoRA, arXiv:2311.03285). See ops/linear.h: nothing is rounded on the way.
//
// [1] h = x A^T   [2] y += scaling * h B: both, for some rows of one adapter at one layer, are a task, which reads its
// matrices once and in order: memory's speed is what counts.
#include "backends/cpu/elements.h"
#include "backends/cpu/ops.h"
#include "backends/cpu/workspace.h"
#include "core/thread_pool.h"
#include "ops/linear.h"

namespace nibble::cpu::NIBBLE_ISA {

namespace {

constexpr int64_t kTaskRows = 16;  // of x at most
constexpr int kTile = 4;           // rows of x, and of A, whose products are summed together

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

template <int R, typename X, typename W>
void shrink_rows(const X* x, int64_t rows, const W* a, int64_t columns, float* h, int64_t rank) {
  for (; rows >= kTile; rows -= kTile, x += kTile * columns, h += kTile * rank)
    shrink_tile<kTile, R>(x, a, columns, h, rank);
  for (; rows > 0; --rows, x += columns, h += rank) shrink_tile<1, R>(x, a, columns, h, rank);
}

template <typename X, typename W>
void shrink(const X* x, int64_t rows, const W* a, int64_t columns, float* h, int64_t rank) {
  for (int64_t r = 0; r < rank; r += kTile) {
    const W* const of_a = a + r * columns;
    if (rank - r >= kTile) shrink_rows<kTile>(x, rows, of_a, columns, h + r, rank);
    else
      for (int64_t i = r; i < rank; ++i) shrink_rows<1>(x, rows, a + i * columns, columns, h + i, rank);
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
void expand_tile(const float* h, const W* b, int64_t rank, float scaling, Y* y, int64_t out) {
  int64_t o = 0;
  for (; o + 2 * kWidth <= out; o += 2 * kWidth) expand_block<M, 2>(h, b + o, rank, scaling, y + o, out, kWidth);
  each_vector(o, out, [&](int64_t i, int n) NIBBLE_INLINE {
    expand_block<M, 1>(h, b + i, rank, scaling, y + i, out, n);
  });
}

template <typename Y, typename W>
void expand(const float* h, int64_t rows, const W* b, int64_t rank, float scaling, Y* y, int64_t out) {
  for (; rows >= kTile; rows -= kTile, h += kTile * rank, y += kTile * out)
    expand_tile<kTile>(h, b, rank, scaling, y, out);
  for (; rows > 0; --rows, h += rank, y += out) expand_tile<1>(h, b, rank, scaling, y, out);
}

// Rows [row, row + rows) of one of the args.
struct Task {
  const LoraAddArgs* args;
  int64_t row, rows;
  float* h;

  void run() const {
    with_type(args->x.dtype, [&](auto x) {
      with_type(args->a.dtype, [&](auto w) { run_as<decltype(x), decltype(w)>(); });
    });
  }

 private:
  template <typename X, typename W>
  void run_as() const {
    const LoraAddArgs& a = *args;
    const int64_t in = a.x.dim(1), out = a.y.dim(1), rank = a.a.dim(0);
    shrink(data_as<X>(a.x) + row * in, rows, data_as<W>(a.a), in, h, rank);
    expand(h, rows, data_as<W>(a.b), rank, a.scaling, data_as<X>(a.y) + row * out, out);
  }
};

}  // namespace

void lora_adds(const LoraAddArgs* args, int count) {
  int64_t tasks = 0, h_floats = 0;
  for (const LoraAddArgs* a = args; a < args + count; ++a) {
    tasks += (a->end - a->begin + kTaskRows - 1) / kTaskRows;
    h_floats += (a->end - a->begin) * a->a.dim(0);
  }
  const int64_t task_floats = tasks * int64_t{sizeof(Task) / sizeof(float)};
  const Workspace memory(task_floats + h_floats);
  auto* const all = reinterpret_cast<Task*>(memory.data());
  float* h = memory.data() + task_floats;
  Task* task = all;
  for (const LoraAddArgs* a = args; a < args + count; ++a) {
    for (int64_t row = a->begin; row < a->end; row += kTaskRows, ++task) {
      *task = {a, row, a->end - row < kTaskRows ? a->end - row : kTaskRows, h};
      h += task->rows * a->a.dim(0);
    }
  }
  parallel_for(tasks, [&](int64_t i) { all[i].run(); });
}

}  // namespace nibble::cpu::NIBBLE_ISA
