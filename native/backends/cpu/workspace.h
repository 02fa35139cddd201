// Scratch memory of one op, counted as workspace and given back at its end.
#pragma once

#include "backends/cpu/simd.h"
#include "core/memory.h"

namespace nibble::cpu::NIBBLE_ISA {

class Workspace {
 public:
  explicit Workspace(int64_t floats) : data_(static_cast<float*>(memory().allocate(floats * 4, Kind::kWorkspace))) {}
  ~Workspace() { memory().release(data_); }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  float* data() const { return data_; }

 private:
  float* data_;
};

}  // namespace nibble::cpu::NIBBLE_ISA
