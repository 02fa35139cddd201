// Kernels of one warp for fragments_test.cpp: what the matrix instructions and copies do, nothing around them.
#pragma once

#include "core/tensor.h"

namespace nibble::test {

// c [16, 8] float32 += A B. a: A [16, 16] bfloat16, b: B's columns [8, 16]; or, stored with `transposed`, a [16, 16] by
// A's columns and b [16, 8] by B's rows. `by_hand`: fragments are made element by element as PTX ISA says, not loaded.
void multiply_fragments(const Tensor& a, const Tensor& b, const Tensor& c, bool transposed, bool by_hand);

// Of 96 bytes six lanes copy 16 each, three in one group and three in a second, the last one only `tail` bytes. first:
// shared memory after waiting for all groups but one; both: after waiting for all.
void copy_in_groups(const Tensor& from, const Tensor& first, const Tensor& both, int tail);

}  // namespace nibble::test
