// Same steps as backends/reference/cross_entropy.cpp, a chunk of labelled rows at a time.
#include "ops/cross_entropy.h"

#include <math.h>

#include "backends/cpu/elements.h"
#include "backends/cpu/gemm.h"
#include "backends/cpu/math.h"
#include "backends/cpu/ops.h"
#include "backends/cpu/workspace.h"
#include "core/thread_pool.h"

namespace nibble::cpu::NIBBLE_ISA {

namespace {

constexpr int64_t kLogitsMax = 8 << 20;  // floats of logits at once
constexpr int64_t kChunkRowsMin = 64;    // so that decoding W is worth it


Tensor float_matrix(float* data, int64_t rows, int64_t columns) {
  return {.data = data, .dtype = DType::kF32, .rank = 2, .shape = {rows, columns}};
}

float largest(const float* x, int64_t count) {
  float top = x[0];
  Vec tops = splat(top);
  int64_t i = 0;
  for (; i + kWidth <= count; i += kWidth) tops = load(x + i) > tops ? load(x + i) : tops;
  for (; i < count; ++i) top = x[i] > top ? x[i] : top;
  const float rest = max(tops);
  return rest > top ? rest : top;
}

// x = e^(x - top); returns the sum.
float exponentials(float* x, int64_t count, float top) {
  Vec total{};
  int64_t i = 0;
  for (; i + kWidth <= count; i += kWidth) {
    const Vec e = exp(load(x + i) - splat(top));
    store(x + i, e);
    total += e;
  }
  float rest = 0;
  for (; i < count; ++i) rest += x[i] = expf(x[i] - top);
  return sum(total) + rest;
}

// [2] loss of a row of logits, [3] which become their gradients: in place, as T, from the row's beginning
template <typename T>
float loss_and_gradient(float* logits, int64_t count, int32_t label, float scale) {
  const float top = largest(logits, count), chosen = logits[label];
  const float total = exponentials(logits, count, top), factor = scale / total;
  const float of_label = logits[label] * factor - scale;
  T* const gradient = reinterpret_cast<T*>(logits);
  each_vector(0, count, [&](int64_t v, int n) NIBBLE_INLINE { store(gradient + v, load(logits + v, n) * splat(factor), n); });
  store(gradient + label, splat(of_label), 1);
  return logf(total) + (top - chosen);
}

// The rows of one chunk: those of `row`, gathered. x has the dtype of the op's x.
struct Chunk {
  const int32_t* row;
  int64_t rows;
  Tensor x;
  float *logits, *d_x;
};

// T is the type of x.
template <typename T>
void run_chunk(const CrossEntropyArgs& a, const Matrix& w, const Chunk& chunk) {
  const int64_t vocabulary = a.w.out, width = a.w.in;
  parallel_for(chunk.rows, [&](int64_t i) {
    memcpy(data_as<T>(chunk.x) + i * width, data_as<T>(a.x) + chunk.row[i] * width, size_t(width) * sizeof(T));
  });
  // [1] logits
  const Term forward{.a = {matrix_of(chunk.x), true}, .b = {w, true}, .depth = width};
  gemm(&forward, 1, {.c = float_matrix(chunk.logits, chunk.rows, vocabulary)});
  parallel_for(chunk.rows, [&](int64_t i) {
    const int32_t n = chunk.row[i];
    a.loss.f32()[n] = loss_and_gradient<T>(chunk.logits + i * vocabulary, vocabulary, a.labels.i32()[n], a.scale);
  });
  // [4] gradients of x and W
  const Matrix d_logits{.data = chunk.logits, .dtype = a.x.dtype, .columns = vocabulary * 4 / int64_t(sizeof(T))};
  if (a.d_x) {
    const Term backward{.a = {d_logits, true}, .b = {w, false}, .depth = vocabulary};
    gemm(&backward, 1, {.c = float_matrix(chunk.d_x, chunk.rows, width)});
    for (int64_t i = 0; i < chunk.rows; ++i) put_row(a.d_x, chunk.row[i] * width, width, chunk.d_x + i * width, false);
  }
  if (a.d_w) {
    const Term gradient{.a = {d_logits, false}, .b = {matrix_of(chunk.x), false}, .depth = chunk.rows};
    gemm(&gradient, 1, {.c = a.d_w, .add = true});
  }
}

}  // namespace

void linear_cross_entropy(const CrossEntropyArgs& a) {
  const int64_t n = a.x.dim(0), width = a.w.in;
  memset(a.loss.data, 0, size_t(n) * 4);
  if (a.d_x) memset(a.d_x.data, 0, size_t(a.d_x.bytes()));
  Workspace labelled(n);
  int32_t* row = reinterpret_cast<int32_t*>(labelled.data());
  int64_t count = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (a.labels.i32()[i] >= 0) row[count++] = int32_t(i);
  }
  if (count == 0) return;
  int64_t rows = kLogitsMax / a.w.out;
  rows = least(count, rows < kChunkRowsMin ? kChunkRowsMin : rows);
  rows = blocks_of(count, blocks_of(count, rows));  // chunks of even size
  Workspace x_space(rows * width), logits(rows * a.w.out), d_x(a.d_x ? rows * width : 0);
  const WeightMatrix weight(a.w);
  const Tensor x{.data = x_space.data(), .dtype = a.x.dtype, .rank = 2, .shape = {rows, width}};
  with_type(a.x.dtype, [&](auto type) {
    for (int64_t done = 0; done < count; done += rows)
      run_chunk<decltype(type)>(a, weight.matrix(), {row + done, least(rows, count - done), x, logits.data(), d_x.data()});
  });
}

}  // namespace nibble::cpu::NIBBLE_ISA
