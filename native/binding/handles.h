// Tensors as JS sees them: whole numbers. A handle names one allocation and its dtype and shape; a
// freed handle is never given out again, so a use after free is an error and not a wrong number.
#pragma once

#include <napi.h>

#include <memory>
#include <string>
#include <unordered_map>

#include "core/file_mapping.h"
#include "core/memory.h"

namespace nibble::binding {

class Handles {
 public:
  uint64_t create(DType dtype, Device device, const Tensor& shape, Kind kind);
  // Optimizer state of zeros in a spill file in `folder`.
  uint64_t create_paged(DType dtype, Device device, const Tensor& shape, const std::string& folder);
  // A mapped file lives until unmap() and until the last tensor in it is released.
  uint64_t map(int descriptor, int64_t bytes, const std::string& path);
  void unmap(uint64_t mapping);
  // Weights at `offset` of the file, read-only. Mapping 0 on the meta device: no file, they are only counted.
  uint64_t create_mapped(uint64_t mapping, int64_t offset, DType dtype, Device device, const Tensor& shape);
  bool is_mapped(uint64_t handle) const { return entry(handle).mapping != nullptr; }
  void release(uint64_t handle);  // throws when already released
  void advise(uint64_t handle, Use use);
  const Tensor& get(uint64_t handle) const;
  ~Handles();

 private:
  struct Entry {
    Tensor tensor;          // empty: no handle's, not yet or no longer
    void* block = nullptr;  // as memory_of(device) knows it
    // Indices of a tensor on the meta device: sizes of workspaces depend on them.
    std::unique_ptr<uint8_t[]> indices;
    std::shared_ptr<FileMapping> mapping;  // of a mapped tensor; block is null then
  };
  // Those of handles that follow each other lie together: what is made together is used together.
  struct Page {
    static constexpr uint64_t kEntries = 64;
    Entry entries[kEntries];
    uint64_t live = 0;
  };
  uint64_t add(Entry&& entry);
  uint64_t add_block(const Tensor& t, void* block);
  uint64_t create_counted(DType dtype, const Tensor& shape);
  static void give_back(const Entry& entry);
  const Entry& entry(uint64_t handle) const;
  std::unordered_map<uint64_t, Page> pages_;  // by handle / Page::kEntries; those with live handles
  std::unordered_map<uint64_t, std::shared_ptr<FileMapping>> mappings_;
  uint64_t next_ = 1;
};

// The handles of this environment (main thread or worker).
Handles& handles(Napi::Env env);

}  // namespace nibble::binding
