// A warp's matrix instructions and copies to shared memory that do not wait, for nvcc (sm_80 and later); layouts are PTX
// ISA's, sections "Matrix Fragments for mma.m16n8k16", "ldmatrix" and "cp.async". backends/cuda/emulation/fragments.h is
// the same for a host compiler.
//
// A fragment is what one lane holds of a matrix, two bfloat16 a register, the first in the low half. With g = lane / 4 and
// t = lane % 4:
//   A [16, 16]  register r: row g + 8 (r % 2), columns 2 t + 8 (r / 2) and the next
//   B [16, 8]   register r: rows 2 t + 8 r and the next, column g
//   C [16, 8]   register r: row g + 8 (r / 2), column 2 t + r % 2; float32
// All lanes of a warp take part.
#pragma once

#include <cstdint>

namespace nibble::cuda {

// C += A B.
__device__ inline void multiply_add(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Four (or two) matrices of 8 rows of 16 bytes each in shared memory: lane 8 i + r gives the address of row r of matrix i
// (of two: lanes 16 and up are not asked, but give an address that may be read). to[i]: of matrix i, row g, elements
// 2 t and the next; `transposed`: rows 2 t and the next, element g.
__device__ inline void load_matrices(uint32_t (&to)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(uint32_t(__cvta_generic_to_shared(row)))
               : "memory");
}
__device__ inline void load_matrices(uint32_t (&to)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
               : "=r"(to[0]), "=r"(to[1])
               : "r"(uint32_t(__cvta_generic_to_shared(row)))
               : "memory");
}
__device__ inline void load_matrices_transposed(uint32_t (&to)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(uint32_t(__cvta_generic_to_shared(row)))
               : "memory");
}
__device__ inline void load_matrices_transposed(uint32_t (&to)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
               : "=r"(to[0]), "=r"(to[1])
               : "r"(uint32_t(__cvta_generic_to_shared(row)))
               : "memory");
}

// Begins to copy 16 bytes to shared memory: the first `bytes` (0 to 16) come from `from`, the others are zeros. Both
// addresses are multiples of 16; with bytes = 0 nothing is read, but `from` must be an address all the same.
__device__ inline void copy_async(void* shared, const void* from, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(uint32_t(__cvta_generic_to_shared(shared))),
               "l"(from), "r"(bytes)
               : "memory");
}
// Ends a group of this thread's copies; it may be empty.
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Until all of this thread's groups but the last kGroups have arrived. Other threads see them after a barrier.
template <int kGroups>
__device__ inline void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
}

}  // namespace nibble::cuda
