// Products by cuBLASLt: what it is told, and what is said where it is not there. On the emulated card a library of our own,
// test/cuda/fake, stands for it; on a card it is the real one, where it is installed.
#include <dlfcn.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "core/device_memory.h"
#include "core/device_products.h"
#include "core/error.h"
#include "ops/linear.h"
#include "ops/quantize4.h"
#include "test/device.h"
#include "test/support.h"

namespace nibble::test {

namespace {

using cuda::Products;

class CudaLibrary : public testing::Test {
 protected:
  void SetUp() override {
    if (!device::has_cuda()) GTEST_SKIP() << cuda::unavailable();
  }
  void TearDown() override {
    if (device::has_cuda()) cuda::choose_products(Products::kOwn);
    unsetenv("NIBBLE_CUBLASLT");
  }
  // Skips the test on a card without the library.
  void choose() {
#ifdef NIBBLE_FAKE_CUBLASLT
    setenv("NIBBLE_CUBLASLT", NIBBLE_FAKE_CUBLASLT, 1);
#endif
    try {
      cuda::choose_products(Products::kLibrary);
    } catch (const Error& error) {
      if (device::is_emulated()) throw;
      GTEST_SKIP() << error.what();
    }
  }
  // An entry point of the fake; null on a card.
  template <typename F>
  static F* fake([[maybe_unused]] const char* name) {
#ifdef NIBBLE_FAKE_CUBLASLT
    return reinterpret_cast<F*>(dlsym(dlopen(NIBBLE_FAKE_CUBLASLT, RTLD_NOW), name));
#else
    return nullptr;
#endif
  }
  static int products() {
    const auto count = fake<int()>("fake_products");
    return count == nullptr ? 0 : count();
  }
};

// NF4 of a bfloat16 matrix.
Weight weight(Bench& b, int64_t out, int64_t in) {
  Weight w{.out = out, .in = in, .data = b.filled(DType::kU8, {out * in / 2}, 0), .quantized = true, .dtype = DType::kBF16};
  w.absmax = b.filled(DType::kF32, {out * in / 64}, 0);
  quantize4({.input = b.random(DType::kBF16, {out, in}, 0.2), .codes = w.data, .absmax = w.absmax, .type = w.type,
             .block_size = w.block_size});
  return w;
}

void forward(Bench& b, int64_t rows, int64_t out, int64_t in, int64_t rank) {
  const Tensor x = b.random(DType::kBF16, {rows, in});
  const Weight w = weight(b, out, in);
  LinearForwardArgs a{.x = x, .w = w, .y = b.out(DType::kBF16, {rows, out})};
  if (rank > 0) {
    a.a = b.random(DType::kF32, {rank, in});
    a.b = b.random(DType::kF32, {out, rank});
    a.scaling = 0.5f;
    a.h = b.out(DType::kF32, {rows, rank});
  }
  linear_forward(a);
}

void backward(Bench& b, int64_t rows, int64_t out, int64_t in, int64_t rank, bool accumulates) {
  LinearBackwardArgs a{.d_y = b.random(DType::kBF16, {rows, out}), .x = b.random(DType::kBF16, {rows, in}),
                       .w = weight(b, out, in), .a = b.random(DType::kF32, {rank, in}),
                       .b = b.random(DType::kF32, {out, rank}), .scaling = 0.5f, .h = b.random(DType::kF32, {rows, rank}),
                       .d_x = b.compared(b.random(DType::kBF16, {rows, in})), .accumulate_dx = accumulates,
                       .d_a = b.compared(b.filled(DType::kF32, {rank, in}, 0)),
                       .d_b = b.compared(b.filled(DType::kF32, {out, rank}, 0))};
  linear_backward(a);
}

}  // namespace

TEST_F(CudaLibrary, SaysWhatIsMissing) {
  setenv("NIBBLE_CUBLASLT", "/nowhere/libcublasLt.so.13", 1);
  expect_error("[cublaslt] expected libcublasLt.so.13 or .12, or its path in NIBBLE_CUBLASLT, got /nowhere/libcublasLt.so.13",
               [] { cuda::choose_products(Products::kLibrary); });
  setenv("NIBBLE_CUBLASLT", "libm.so.6", 1);
  expect_error("cublasLtCreate; NIBBLE_CUDA_GEMM=own does without", [] { cuda::choose_products(Products::kLibrary); });
  EXPECT_EQ(cuda::chosen_products(), Products::kOwn);
}

TEST_F(CudaLibrary, ManyRowsWithAndWithoutAnAdapterForwardAndBackward) {
  choose();
  const int before = products();
  // Bounds of bfloat16 operands, as in linear_test.cpp.
  expect_like_reference("forward", 1e-2, [](Bench& b) { forward(b, 128, 64, 96, 0); });
  expect_like_reference("forward, rank 5", 1e-2, [](Bench& b) { forward(b, 131, 72, 64, 5); });
  expect_like_reference("backward, rank 8", 1e-2, [](Bench& b) { backward(b, 129, 64, 128, 8, false); });
  expect_like_reference("backward that adds", 1e-2, [](Bench& b) { backward(b, 128, 96, 64, 3, true); });
  if (device::is_emulated()) {
    EXPECT_GE(products() - before, 4);
  }
}

TEST_F(CudaLibrary, FewRowsStayWithOurOwnKernels) {
  choose();
  const int before = products();
  expect_like_reference("forward", 1e-2, [](Bench& b) { forward(b, 127, 64, 96, 4); });
  EXPECT_EQ(products(), before);
}

TEST_F(CudaLibrary, WhatTheLibraryRefusesIsAnErrorWithItsStatus) {
  choose();
  const auto fail = fake<int(int)>("fake_fail_to_find");
  if (fail == nullptr) GTEST_SKIP() << "a card's library does what it is asked";
  fail(15);
  Bench b(Device::kCuda);
  expect_error("[cublaslt] heuristic: status 15", [&] { forward(b, 256, 64, 64, 0); });
  fail(0);
  forward(b, 256, 64, 64, 0);
}

}  // namespace nibble::test
