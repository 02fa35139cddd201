// Memory that will be read, asked for a few lines at a time beside other work: all at once would leave no room for what that
// work itself waits for.
#pragma once

#include "backends/cpu/simd.h"

namespace nibble::cpu::NIBBLE_ISA {

class Ahead {
 public:
  static constexpr int64_t kLine = 64;  // bytes of a line of the cache

  // Lines `step` bytes apart. More than a few hundred such strips are not asked for.
  void add(const void* at, int64_t step, int64_t lines) {
    if (count_ == kStripsMax || lines <= 0) return;
    strips_[count_++] = {static_cast<const uint8_t*>(at), step, lines};
    lines_ += lines;
  }
  // Bytes that follow each other.
  void add(const void* at, int64_t bytes) { add(at, kLine, (bytes + kLine - 1) / kLine); }

  // In so many steps, all will be asked for.
  void spread(int64_t steps) { each_ = steps > 0 ? (lines_ + steps - 1) / steps : lines_; }
  void step() {
    if (next_ < count_) ask(each_);
  }
  void finish() { ask(lines_); }

 private:
  struct Strip {
    const uint8_t* at;
    int64_t step, lines;
  };
  static constexpr int kStripsMax = 512;

  void ask(int64_t lines) {
    while (lines > 0 && next_ < count_) {
      Strip& s = strips_[next_];
      const int64_t some = s.lines < lines ? s.lines : lines;
      const uint8_t* at = s.at;
      for (int64_t i = 0; i < some; ++i, at += s.step) ask_for(at);
      s.at = at;
      s.lines -= some;
      lines -= some;
      if (s.lines == 0) ++next_;
    }
  }

  int count_ = 0, next_ = 0;
  int64_t lines_ = 0, each_ = 0;
  Strip strips_[kStripsMax];
};

}  // namespace nibble::cpu::NIBBLE_ISA
