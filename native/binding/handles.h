// Tensors as JS sees them: small integers. A handle names one allocation and its dtype and shape; a
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
  uint32_t create(DType dtype, Device device, const Tensor& shape, Kind kind);
  // Optimizer state of zeros in a spill file in `folder`.
  uint32_t create_paged(DType dtype, Device device, const Tensor& shape, const std::string& folder);
  // A mapped file lives until unmap() and until the last tensor in it is released.
  uint32_t map(int descriptor, int64_t bytes, const std::string& path);
  void unmap(uint32_t mapping);
  // Weights at `offset` of the file, read-only. Mapping 0 on the meta device: no file, they are only counted.
  uint32_t create_mapped(uint32_t mapping, int64_t offset, DType dtype, Device device, const Tensor& shape);
  bool is_mapped(uint32_t handle) const { return entry(handle).mapping != nullptr; }
  void release(uint32_t handle);  // throws when already released
  void advise(uint32_t handle, Use use);
  const Tensor& get(uint32_t handle) const;
  ~Handles();

 private:
  struct Entry {
    Tensor tensor;
    void* block;  // as memory_of(device) knows it
    // Indices of a tensor on the meta device: sizes of workspaces depend on them.
    std::unique_ptr<uint8_t[]> indices;
    std::shared_ptr<FileMapping> mapping;  // of a mapped tensor; block is null then
  };
  uint32_t add(const Tensor& t, void* block);
  uint32_t create_counted(DType dtype, const Tensor& shape);
  static void give_back(const Entry& entry);
  const Entry& entry(uint32_t handle) const;
  std::unordered_map<uint32_t, Entry> live_;
  std::unordered_map<uint32_t, std::shared_ptr<FileMapping>> mappings_;
  uint32_t next_ = 1;
};

// The handles of this environment (main thread or worker).
Handles& handles(Napi::Env env);

}  // namespace nibble::binding
