#include "binding/handles.h"

#include <utility>

#include "core/error.h"

namespace nibble::binding {

uint64_t Handles::create(DType dtype, Device device, const Tensor& shape, Kind kind) {
  Tensor t = shape;
  t.dtype = dtype;
  t.device = device;
  return add_block(t, memory_of(device).allocate(t.bytes(), kind));
}

uint64_t Handles::create_paged(DType dtype, Device device, const Tensor& shape, const std::string& folder) {
  Tensor t = shape;
  t.dtype = dtype;
  t.device = device;
  return add_block(t, memory_of(device).allocate_paged(t.bytes(), folder));
}

uint64_t Handles::add(Entry&& entry) {
  const uint64_t handle = next_++;
  Page& page = pages_[handle / Page::kEntries];
  page.entries[handle % Page::kEntries] = std::move(entry);
  ++page.live;
  return handle;
}

uint64_t Handles::add_block(const Tensor& t, void* block) {
  Entry entry{t, block, nullptr, nullptr};
  entry.tensor.data = block;
  if (t.device == Device::kMeta && t.dtype == DType::kI32) {
    entry.indices = std::make_unique<uint8_t[]>(size_t(t.bytes()));
    entry.tensor.data = entry.indices.get();
  }
  return add(std::move(entry));
}

uint64_t Handles::map(int descriptor, int64_t bytes, const std::string& path) {
  const uint64_t mapping = next_++;
  mappings_[mapping] = std::make_shared<FileMapping>(descriptor, bytes, path);
  return mapping;
}

void Handles::unmap(uint64_t mapping) { mappings_.erase(mapping); }

uint64_t Handles::create_mapped(uint64_t mapping, int64_t offset, DType dtype, Device device, const Tensor& shape) {
  const char* op = "tensor_mapped";
  if (device == Device::kMeta && mapping == 0) return create_counted(dtype, shape);
  const auto found = mappings_.find(mapping);
  require(found != mappings_.end(), op, "file ", mapping, " is not mapped");
  require(device == Device::kCpu || device == Device::kReference, op, "expected a device of the host");
  Tensor t = shape;
  t.dtype = dtype;
  t.device = device;
  const int64_t end = found->second->bytes();
  require(offset >= 0 && offset <= end && t.bytes() <= end - offset, op, "expected a range within ", end,
          " bytes, got ", t.bytes(), " at ", offset);
  require(offset % size_of(dtype) == 0, op, "offset: expected a multiple of ", size_of(dtype), ", got ", offset);
  t.data = found->second->data() + offset;
  memory().count_mapped(t.bytes());
  return add({t, nullptr, nullptr, found->second});
}

uint64_t Handles::create_counted(DType dtype, const Tensor& shape) {
  Tensor t = shape;
  t.dtype = dtype;
  t.device = Device::kMeta;
  t.data = this;  // never read: anything but null
  meta_memory().count_mapped(t.bytes());
  return add({t, nullptr, nullptr, nullptr});
}

void Handles::give_back(const Entry& e) {
  if (e.block != nullptr) return memory_of(e.tensor.device).release(e.block);
  if (e.tensor.device == Device::kMeta) return meta_memory().count_mapped(-e.tensor.bytes());
  memory().count_mapped(-e.tensor.bytes());
  e.mapping->drop(e.tensor.u8() - e.mapping->data(), e.tensor.bytes());
}

void Handles::release(uint64_t handle) {
  give_back(entry(handle));
  const auto page = pages_.find(handle / Page::kEntries);
  page->second.entries[handle % Page::kEntries] = {};
  if (--page->second.live == 0) pages_.erase(page);
}

void Handles::advise(uint64_t handle, Use use) {
  const Entry& e = entry(handle);
  if (e.mapping == nullptr) memory_of(e.tensor.device).advise(e.block, use);
}

const Handles::Entry& Handles::entry(uint64_t handle) const {
  const auto page = pages_.find(handle / Page::kEntries);
  const Entry* const entry = page == pages_.end() ? nullptr : &page->second.entries[handle % Page::kEntries];
  require(entry != nullptr && entry->tensor, "tensor", "handle ", handle, " is not live: freed, or from another thread");
  return *entry;
}

const Tensor& Handles::get(uint64_t handle) const { return entry(handle).tensor; }

Handles::~Handles() {
  for (auto& [number, page] : pages_)
    for (const Entry& e : page.entries)
      if (e.tensor) give_back(e);
}

Handles& handles(Napi::Env env) { return *env.GetInstanceData<Handles>(); }

}  // namespace nibble::binding
