// Where tensors live. Every byte is counted by kind, so that the memory report is exact. Freed blocks are kept
// in size classes and handed out again, so that a training step after the first asks the system for nothing;
// in use and kept together are never more than the most that was in use at one time.
#pragma once

#include <cstdint>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/kept_blocks.h"
#include "core/slabs.h"
#include "core/spill_file.h"
#include "core/tensor.h"

namespace nibble {

enum class Kind : uint8_t { kWeights, kAdapter, kGradients, kOptimizer, kActivations, kWorkspace };
constexpr int kKinds = 6;
constexpr const char* kKindNames[kKinds] = {"weights",   "adapter",     "gradients",
                                            "optimizer", "activations", "workspace"};

struct MemoryReport {
  int64_t current[kKinds];  // bytes now in use, paged ones excluded
  int64_t peak[kKinds];     // most bytes of the kind at any time since reset_peak
  int64_t at_peak[kKinds];  // bytes of the kind when all kinds together were most
  int64_t peak_total;       // most bytes of all kinds together since reset_peak
  int64_t cached;           // bytes freed by their owner and kept for the next allocation
  int64_t paged;            // bytes in spill files, in memory or not
  int64_t paged_peak;       // most of them since reset_peak
  int64_t mapped;           // of the weights in `current`: bytes that are a file's own, see core/file_mapping.h
};

// Where blocks come from.
enum class Source : uint8_t {
  kSystem,
  kNowhere,  // addresses without memory: to count what work would take without doing it
  kCuda,     // the device's; what is paged is unified memory, see core/device_memory.h
};

// Blocks for work that is recorded and run again (core/device_graph.h): each stays at its address, and counted as what it was
// first asked for, whoever has it, until the pool is freed. Between recordings all of them may be free.
struct Pool {
  std::unordered_map<int64_t, std::vector<void*>> free;  // by size
};

// What an allocation of so many bytes takes: a size class at most 1/8 above it, so that freed blocks fit later requests.
int64_t allocated_size(int64_t bytes);

class Memory {
 public:
  explicit Memory(Source source = Source::kSystem) : source_(source) {}
  // Bytes, 64-byte aligned, not zeroed. Throws RESOURCE_EXHAUSTED, with the report, when the system
  // or the limit refuses.
  void* allocate(int64_t bytes, Kind kind);
  // Zeros in a spill file in `folder`; see core/spill_file.h for what it throws. On a device they are in unified memory,
  // the folder is not used, and RESOURCE_EXHAUSTED says that the device has less free than would be paged.
  void* allocate_paged(int64_t bytes, const std::string& folder);
  void release(void* pointer);
  // Allocations come from `pool` from here on, what it lacks from the device; null: from none. What is
  // released of a pool goes back to it.
  void use_pool(Pool* pool);
  // Its free blocks are freed; those that have an owner still are his alone from here on.
  void free_pool(Pool& pool);
  // Counts weights that lie in a mapped file; the same number, negative, when they are no longer used. The limit
  // never refuses them, as the system takes their pages back when it needs them, but allocations see them as in use.
  void count_mapped(int64_t bytes);
  // Of a block of allocate_paged; others are left as they are.
  void advise(void* pointer, Use use);
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
    bool is_paged;
    Pool* pool = nullptr;
  };
  void* take_pooled(int64_t size);
  void* take_kept(int64_t size);
  void* from_system(int64_t size, Kind kind);
  void to_system(void* pointer, int64_t size);
  void drop_oldest();
  void count(const Block& block);
  int64_t trim_locked();
  void release_locked(void* pointer);
  void* page(int64_t size, const std::string& folder);
  void unpage(void* pointer, int64_t size);
  std::string usage_text() const;

  const Source source_;
  mutable std::mutex mutex_;
  std::unordered_map<void*, Block> live_;
  Slabs slabs_;  // of weights
  KeptBlocks kept_;
  Pool* pool_ = nullptr;
  uintptr_t nowhere_ = 0;  // the last address given out without memory
  MemoryReport report_{};
  int64_t total_ = 0;
  int64_t most_ = 0;  // most that was in use since the last trim
  int64_t limit_ = 0;
};

// Has the system's allocator give back what is freed of large blocks, JavaScript's buffers among them, instead of
// keeping it for more of their size: what a process takes is then what it uses. Once, at the start.
void settle_system_allocator();

// The process's memory on the host.
Memory& memory();
// That of tensors on Device::kMeta.
Memory& meta_memory();
// That of tensors on Device::kCuda. Blocks freed by one op serve the next one at once, as all work is in one stream.
Memory& cuda_memory();

inline Memory& memory_of(Device device) {
  if (device == Device::kCuda) return cuda_memory();
  return device == Device::kMeta ? meta_memory() : memory();
}

}  // namespace nibble
