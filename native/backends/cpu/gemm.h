// Matrix products of packed tiles: sums of products of operands of any storage, with what comes before
// and after them (dropout, bias, rounding) done on the way. Knows no layers.
#pragma once

#include "backends/cpu/pack.h"

namespace nibble::cpu::NIBBLE_ISA {

// A[m, k] B[n, k], summed over k. `mask` is for the first term alone, without bias: it multiplies element
// [m, n] of that sum.
struct Term {
  Operand a, b;
  int64_t depth;
  const Dropout* mask = nullptr;
  const PackedRows* packed = nullptr;  // all of A, if the caller has it; used where its lanes are the product's
};
constexpr int kTermsMax = 8;

struct Result {
  Tensor c;                     // [m, n] float32 or bfloat16
  bool add = false;             // to what c holds
  const float* bias = nullptr;  // [n]
  bool turned = false;          // c is float32 [n, m] and add: for products whose m is smaller than their n
  Mixing mixing = Mixing::kNone;  // else in quarters (quarters.h) where that is less work, if c is bfloat16
};

struct Product {
  const Term* terms;
  int count;
  Result result;
};

// c = (c +) bias + sum of the terms, for products that need nothing of each other, the largest first: one wait for the
// threads serves them all. The order of all sums depends on m, n and the depths only, never on the number of threads.
constexpr int kTogetherMax = 16;
void gemm(const Product* products, int count);
void gemm(const Term* terms, int count, const Result& result);

// The same for few rows: each weight is read once, from memory straight into dot products. A row's sums do not
// depend on how many rows there are. Up to kFewRows of any storage, and more of what few_rows_*.h are for.
constexpr int64_t kFewRows = 8;
bool is_for_few_rows(const Term* terms, int count, const Result& result);
constexpr int kProductsMax = 4;
// What is done beside products of few rows, where memory is read more slowly than it could be.
class LoraPieces;
struct Beside {
  const LoraPieces* pieces = nullptr;  // of adapters on their rows, which ride along, in the products' order
  const Soon* soon = nullptr;          // what is read afterwards
  int soon_count = 0;
};
// All for few rows, and of as many rows.
void gemm_few_rows(const Product* products, int count, const Beside& beside = {});

}  // namespace nibble::cpu::NIBBLE_ISA
