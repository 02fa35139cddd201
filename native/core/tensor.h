// A tensor is a device pointer, a dtype and a shape; always contiguous, row-major. It does not own
// its memory: core/memory.h does.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <ostream>
#include <string>

#include "core/dtype.h"

namespace nibble {

// kReference is host memory whose ops run in the plain double-precision backend. Tensors on kMeta have a shape
// and are counted, but have no memory (int32 ones excepted) and their ops compute nothing: what work would take.
enum class Device : uint8_t { kCpu, kReference, kCuda, kMeta };
constexpr int kDevices = 4;

constexpr const char* name_of(Device d) {
  constexpr const char* names[kDevices] = {"cpu", "reference", "cuda", "meta"};
  return names[int(d)];
}

constexpr int kMaxRank = 4;

struct Tensor {
  void* data = nullptr;
  DType dtype = DType::kF32;
  Device device = Device::kCpu;
  int rank = 0;
  std::array<int64_t, kMaxRank> shape{};

  int64_t count() const {
    int64_t n = 1;
    for (int i = 0; i < rank; ++i) n *= shape[i];
    return n;
  }
  int64_t bytes() const { return count() * size_of(dtype); }
  // Length of dimension i; negative i counts from the back.
  int64_t dim(int i) const { return shape[i < 0 ? rank + i : i]; }
  bool has_shape(std::initializer_list<int64_t> want) const;
  std::string shape_text() const;

  explicit operator bool() const { return data != nullptr; }
  float* f32() const { return static_cast<float*>(data); }
  uint16_t* u16() const { return static_cast<uint16_t*>(data); }
  uint8_t* u8() const { return static_cast<uint8_t*>(data); }
  int32_t* i32() const { return static_cast<int32_t*>(data); }
};

// Its shape. Messages of checks that hold are never made, so they name tensors, not texts.
inline std::ostream& operator<<(std::ostream& out, const Tensor& t) { return out << t.shape_text(); }

}  // namespace nibble
