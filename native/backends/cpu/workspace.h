// Scratch memory of one op, counted as workspace and given back at its end. It is taken by the caller
// before threads start: no task allocates, so none can fail.
#pragma once

#include "backends/cpu/simd.h"
#include "core/memory.h"

namespace nibble::cpu::NIBBLE_ISA {

class Workspace {
 public:
  Workspace() = default;
  explicit Workspace(int64_t floats) { reserve(floats); }
  ~Workspace() { release(); }
  void reserve(int64_t floats) {
    release();
    data_ = static_cast<float*>(memory().allocate(floats * 4, Kind::kWorkspace));
  }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  float* data() const { return data_; }

 private:
  void release() {
    if (data_ != nullptr) memory().release(data_);
    data_ = nullptr;
  }

  float* data_ = nullptr;
};

// One piece of scratch memory for each task that may run at the same time.
class Scratch {
 public:
  Scratch(int64_t floats, int slots)
      : floats_((floats + 15) / 16 * 16), slots_(slots), space_(floats_ * slots + slots), taken_(flags()) {
    memset(taken_, 0, size_t(slots) * 4);
  }

  // Holds one piece for as long as it lives.
  class Piece {
   public:
    explicit Piece(const Scratch& of) : of_(of), slot_(of.take()) {}
    ~Piece() { __atomic_store_n(&of_.taken_[slot_], 0, __ATOMIC_RELEASE); }
    Piece(const Piece&) = delete;
    Piece& operator=(const Piece&) = delete;
    float* data() const { return of_.space_.data() + of_.floats_ * slot_; }

   private:
    const Scratch& of_;
    int slot_;
  };

 private:
  int32_t* flags() const { return reinterpret_cast<int32_t*>(space_.data() + floats_ * slots_); }
  int take() const {
    for (int slot = 0;; slot = (slot + 1) % slots_) {
      if (__atomic_exchange_n(&taken_[slot], 1, __ATOMIC_ACQUIRE) == 0) return slot;
    }
  }

  int64_t floats_;
  int slots_;
  Workspace space_;
  int32_t* taken_;
};

}  // namespace nibble::cpu::NIBBLE_ISA
