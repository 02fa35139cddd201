// Products by Strassen's scheme ("Gaussian elimination is not optimal", 1969) in Winograd's form, one level deep: of A and B
// cut into quarters,
//   A11 A12   B11 B12    S1 = A21 + A22   S2 = S1 - A11   T1 = B12 - B11   T2 = B22 - T1
//   A21 A22   B21 B22    S3 = A11 - A21   S4 = A12 - S2   T3 = B22 - B12   T4 = B21 - T2
// seven products are made instead of eight,
//   P1 = A11 B11   P2 = A12 B21   P3 = S4 B22   P4 = A22 T4   P5 = S1 T1   P6 = S2 T2   P7 = S3 T3
//   C11 = P1 + P2   C12 = P1 + P6 + P5 + P3   C21 = P1 + P6 + P7 + P4   C22 = P1 + P6 + P7 + P5
// S and T are summed while A and B are packed, and C while a tile is in registers (Huang et al., "Strassen's algorithm
// reloaded", 2016). In float32 only: sums of bfloat16 numbers are no such numbers.
//
// What it costs: an element's error is relative to the norms of what is mixed, not to the products it sums (Higham, "Accuracy and
// stability of numerical algorithms", 2002, section 23.2.2), and a row's bits depend on the row it is mixed with. So it serves in
// training only, where no answer depends on it, and where C is bfloat16: errors are a thousandth of that rounding. Rows of activations
// that differ by much in size are not mixed: some models have tokens a thousand times as large as others (Sun et al., "Massive
// activations in large language models", arXiv:2402.17762). Gradients may be: they are summed over rows in the end.
#pragma once

#include "backends/cpu/kernel.h"
#include "ops/gemm_plan.h"

namespace nibble::cpu::NIBBLE_ISA {

// Where the operands of P1 ... P7 lie. The halves of C's columns are its even and its odd strips of kTileColumns: which
// columns are mixed must not depend on how many a task takes.
struct Quarters {
  // Rows of A that follow each other, or strips of B, each `step` lanes after the one before.
  struct Run {
    const float* at;
    int64_t step;
  };
  Run a[7], b[7];
  int64_t depth;        // of a quarter
  bool apart = false;   // these rows are not to be mixed: they take eight products, and P1's and P2's rows of A alone
};

// S1 ... S4 from a row of A's upper and one of its lower half: rows of `depth`, each s_step after the one before.
void mix_rows(const float* upper, const float* lower, int64_t depth, float* s, int64_t s_step);

// Where A's part is: its rows, `half` of them in the upper half, and S1 ... S4.
void place_rows(Quarters& q, const Quarters::Run& rows, int64_t half, int64_t depth, const Quarters::Run& s, int64_t s_step);

// T1 ... T4 of pairs of strips: b has the strips of the upper half of the depth, then those of the lower one, `floats` each, as
// pack_columns lays them out. T1 takes the place of B12, and T2, T3 and T4 come behind.
void mix_columns(float* b, int64_t floats, int64_t pairs);

// Where B's part is: what mix_columns has left.
void place_columns(Quarters& q, const float* b, int64_t floats, int64_t pairs);

// c [rows, columns of the pairs of strips] (+)= the product. `rows` are even, the first half of them A's upper one, unless they are
// apart or one, which has none to be mixed with.
void multiply_quarters(const Quarters& q, int64_t rows, int64_t pairs, float* c, int64_t pitch, bool add);

}  // namespace nibble::cpu::NIBBLE_ISA
