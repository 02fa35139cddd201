#include "backends/cuda/codebook8.h"

#include "core/device_memory.h"
#include "core/error.h"

namespace nibble::cuda {

namespace {

// Kept for as long as the process runs; too small to be counted.
const Codebook8* uploaded(const Codebook8& book) {
  void* const there = allocate(int64_t(sizeof(Codebook8)));
  if (there == nullptr) throw Error(Code::kResourceExhausted, "cuda", "the device refused the tables of 8-bit codes");
  upload(there, &book, int64_t(sizeof(Codebook8)));
  return static_cast<const Codebook8*>(there);
}

}  // namespace

const Codebook8* device_codebook8_signed() {
  static const Codebook8* book = uploaded(codebook8_signed());
  return book;
}

const Codebook8* device_codebook8_unsigned() {
  static const Codebook8* book = uploaded(codebook8_unsigned());
  return book;
}

}  // namespace nibble::cuda
