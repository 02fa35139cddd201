// Large mappings that many blocks share: thousands of matrices of some hundred kilobytes, as a quantized model has, are
// then on huge pages, which a block of its own would be too small for. A slab goes back to the system with its last
// block; the one in use is begun anew instead, so that loading tensor by tensor touches the same memory again.
#pragma once

#include <cstdint>
#include <map>

namespace nibble {

class Slabs {
 public:
  static constexpr int64_t kBytes = 16 << 20;
  static bool takes(int64_t bytes) { return bytes < (2 << 20); }  // larger ones have huge pages of their own

  // Bytes, a multiple of 64 that `takes` accepts; 64-byte aligned, null when the system refuses. Not thread-safe.
  void* allocate(int64_t bytes);
  // False: the pointer is not of a slab.
  bool release(void* pointer);
  // Gives an unused slab back.
  void trim();

 private:
  struct Slab {
    int64_t used;    // bytes from the beginning
    int64_t blocks;  // that live
  };
  std::map<uintptr_t, Slab> slabs_;  // by address
  uintptr_t current_ = 0;
};

}  // namespace nibble
