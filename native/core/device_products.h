// Who multiplies matrices of many rows on the CUDA device: its own kernels or NVIDIA's library. What the binding asks of the
// CUDA backend, or of backends/no_cuda.
#pragma once

namespace nibble::cuda {

enum class Products { kOwn, kLibrary };

// From here on; until then $NIBBLE_CUDA_GEMM says: own (default) or cublaslt. Throws FAILED_PRECONDITION, with what was looked
// for, where the library cannot be opened; the choice stays as it was.
void choose_products(Products products);
Products chosen_products();

}  // namespace nibble::cuda
