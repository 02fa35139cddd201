// Linear layers of one x. Of few rows, one wait for the threads serves them all, and x is laid out once.
#include "backends/cpu/gemm.h"
#include "backends/cpu/ops.h"

namespace nibble::cpu::NIBBLE_ISA {

namespace {

Term term_of(const LinearForwardArgs& a, const WeightMatrix& weight) {
  return {.a = {matrix_of(a.x), true}, .b = {weight.matrix(), true}, .depth = a.w.in};
}

// Layers [first, count), one level of the stack for each: WeightMatrix stays where its Term looks for it.
void multiply_from(const LinearForwardArgs* args, int first, int count, Term* terms, Product* products) {
  if (first == count) return gemm_few_rows(products, count);
  const WeightMatrix weight(args[first].w);
  terms[first] = term_of(args[first], weight);
  products[first] = {terms + first, 1, {.c = args[first].y, .bias = args[first].bias.f32()}};
  multiply_from(args, first + 1, count, terms, products);
}

}  // namespace

void linears_forward(const LinearForwardArgs* args, int count) {
  bool few = count <= kProductsMax;
  for (int i = 0; i < count && few; ++i) {
    const WeightMatrix weight(args[i].w);
    const Term term = term_of(args[i], weight);
    few = is_for_few_rows(&term, 1, {.c = args[i].y});
  }
  Term terms[kProductsMax];
  Product products[kProductsMax];
  if (few) return multiply_from(args, 0, count, terms, products);
  for (int i = 0; i < count; ++i) NIBBLE_ISA::linear_forward(args[i]);
}

}  // namespace nibble::cpu::NIBBLE_ISA
