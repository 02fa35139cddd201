// Matrix products of every form that the ops need.
//
//   C[m,n] = beside + sum over terms of mask * sum_k A(m,k) B(n,k)
//
// Three ways lead there. Where all operands of all terms are bfloat16, or are to be rounded to it, tensor cores multiply
// (product_pairs.cu, product_tile.h): products of bfloat16 are exact, sums are float32. Anything else is multiplied in
// float32 on the plain cores (product.cu): splitting a float32 operand in three bfloat16 parts would take six products
// on tensor cores for the same bits, and training does not do it in float32. Many rows over 4-bit weights may go to
// cuBLASLt instead (product_library.cu), if that is chosen.
#pragma once

#include "backends/cuda/weight.h"
#include "ops/linear.h"
#include "ops/philox.h"

namespace nibble::cuda {

// A matrix as an operand: elements of `data` times factor, rounded to `rounding`; or, with is_weight, the weight's.
// Element (row, depth) lies at row * pitch + depth, with `columns` at depth * pitch + row.
struct Operand {
  const void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t pitch = 0;
  bool columns = false;
  float factor = 1;
  DType rounding = DType::kF32;
  Dropout dropout;  // of the element at its index
  bool is_weight = false;

  NIBBLE_HD int64_t index(int64_t row, int64_t depth) const { return columns ? depth * pitch + row : row * pitch + depth; }
};

// x[m, k] as rows, or read by columns.
inline Operand rows_of(const Tensor& t) { return {.data = t.data, .dtype = t.dtype, .pitch = t.dim(1)}; }
inline Operand columns_of(const Tensor& t) {
  return {.data = t.data, .dtype = t.dtype, .pitch = t.dim(1), .columns = true};
}
// W[n, k], or W[k, n].
constexpr Operand kWeight{.is_weight = true}, kWeightTransposed{.columns = true, .is_weight = true};

struct Term {
  Operand a, b;
  int64_t depth = 0;
};

// How much of C a block makes. kChosen: by the product's shape, so results depend on nothing else.
enum class Tile { kChosen, kSmall, kMedium, kLarge };

struct Product {
  // Read alike: both a by rows or both by columns, and so the b. The second is for an adapter, of small depth.
  Term term[2];
  int terms = 1;
  Dropout mask;  // of the second term's sum at C's index; p = 0: none
  int64_t m = 0, n = 0;
  const float* bias = nullptr;  // [n]
  void* c = nullptr;            // [m, n]
  DType c_dtype = DType::kF32;  // or bfloat16
  bool accumulate = false;
  // Where the device alone knows how many rows there are: only the first *rows_used - rows_before are made.
  const int32_t* rows_used = nullptr;
  int64_t rows_before = 0;
  Tile tile = Tile::kChosen;
  int splits = 0;  // parts of the first term's depth that blocks of their own sum; 0: chosen by the shape
};

// `weight`: what operands with is_weight stand for.
void multiply(const Product& product, const WeightView& weight);

// The ways, as multiply() chooses between them.
bool takes_library(const Product& product, const WeightView& weight);
void multiply_library(const Product& product, const WeightView& weight);
bool takes_pairs(const Product& product, const WeightView& weight);
void multiply_pairs(const Product& product, const WeightView& weight);
void multiply_floats(const Product& product, const WeightView& weight);

// What dropout multiplies element `index` with: 1 / (1 - p), or 0.
NIBBLE_HD inline float dropout_factor(const Dropout& d, int64_t index) {
  if (d.p == 0) return 1;
  return dropout_keeps(d.seed, d.stream, uint64_t(index), d.p) ? float(1.0 / (1.0 - double(d.p))) : 0.0f;
}

__device__ inline float element(const Operand& o, const WeightView& w, int64_t row, int64_t depth) {
  if (o.is_weight) return o.columns ? w.element(depth, row) : w.element(row, depth);
  const int64_t i = o.index(row, depth);
  return round_to(o.rounding, load(o.data, o.dtype, i) * o.factor * dropout_factor(o.dropout, i));
}

__device__ inline int64_t rows_to_make(const Product& p) {
  return p.rows_used == nullptr ? p.m : most(0, least(p.m, *p.rows_used - p.rows_before));
}

// C's element from its sum.
template <typename T>
__device__ inline void put_result(const Product& p, int64_t row, int64_t column, float sum) {
  T& to = static_cast<T*>(p.c)[row * p.n + column];
  if (p.bias != nullptr) sum += p.bias[column];
  if (p.accumulate) sum += to_float(to);
  set(to, sum);
}

// Two of a row, from an even column on, stored as one where they may be.
template <typename T>
__device__ inline void put_results(const Product& p, int64_t row, int64_t column, float first, float second) {
  struct alignas(2 * sizeof(T)) Pair {
    T first, second;
  };
  if (p.n % 2 != 0) {
    put_result<T>(p, row, column, first);
    if (column + 1 < p.n) put_result<T>(p, row, column + 1, second);
    return;
  }
  Pair* const to = reinterpret_cast<Pair*>(static_cast<T*>(p.c) + row * p.n + column);
  if (p.bias != nullptr) {
    first += p.bias[column];
    second += p.bias[column + 1];
  }
  if (p.accumulate) {
    const Pair old = *to;
    first += to_float(old.first);
    second += to_float(old.second);
  }
  Pair pair;
  set(pair.first, first);
  set(pair.second, second);
  *to = pair;
}

// Which tile of C a block makes: groups of tiles that share rows and columns run side by side, so that both come from
// the L2 cache.
struct TilePlace {
  int64_t row, column;
};
__device__ inline TilePlace tile_place(int64_t tiles_m, int64_t tiles_n) {
  constexpr int64_t kGroup = 8;  // tiles of rows
  const int64_t id = blockIdx.x, of_group = kGroup * tiles_n, first = id / of_group * kGroup;
  const int64_t rows = least(kGroup, tiles_m - first), at = id % of_group;
  return {first + at % rows, at / rows};
}

}  // namespace nibble::cuda
