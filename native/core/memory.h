// Where tensors live. Every byte is counted by kind, so that the memory report is exact; freed
// blocks are kept in size classes and handed out again, so that a training step after the first
// asks the system for nothing.
#pragma once

#include <cstdint>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "core/tensor.h"

namespace nibble {

enum class Kind : uint8_t { kWeights, kAdapter, kGradients, kOptimizer, kActivations, kWorkspace };
constexpr int kKinds = 6;
constexpr const char* kKindNames[kKinds] = {"weights",   "adapter",     "gradients",
                                            "optimizer", "activations", "workspace"};

struct MemoryReport {
  int64_t current[kKinds];  // bytes now in use
  int64_t peak[kKinds];     // most bytes of the kind at any time since reset_peak
  int64_t peak_total;       // most bytes of all kinds together since reset_peak
  int64_t cached;           // bytes freed by their owner and kept for the next allocation
};

class Memory {
 public:
  // Bytes, 64-byte aligned, not zeroed. Throws RESOURCE_EXHAUSTED, with the report, when the system
  // or the limit refuses.
  void* allocate(int64_t bytes, Kind kind);
  void release(void* pointer);
  MemoryReport report() const;
  void reset_peak();
  // 0 = none. Counts bytes in use, not cached ones.
  void set_limit(int64_t bytes);
  // Gives cached blocks back to the system; the number of bytes given back.
  int64_t trim();

 private:
  struct Block {
    int64_t bytes;
    Kind kind;
  };
  int64_t trim_locked();
  mutable std::mutex mutex_;
  std::unordered_map<void*, Block> live_;
  std::unordered_map<int64_t, std::vector<void*>> free_;
  MemoryReport report_{};
  int64_t total_ = 0;
  int64_t limit_ = 0;
};

// The process's memory on the host.
Memory& memory();

}  // namespace nibble
