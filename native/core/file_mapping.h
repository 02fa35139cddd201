// A file's bytes in memory without a copy: they are the page cache's own pages, read in when they are touched,
// given back when memory is short, and shared by all processes that map the file. For weights, which nobody writes.
// It counts no bytes: core/memory.h does.
#pragma once

#include <cstdint>
#include <string>

namespace nibble {

class FileMapping {
 public:
  // Maps the `bytes` (> 0) of an open file, which may be closed afterwards; `path` is for messages. Up to a page past
  // the end may be read too and is zero. Throws DATA_LOSS when the file has another length now, and
  // RESOURCE_EXHAUSTED when the system refuses.
  //
  // A file that is cut, or that cannot be read, while it is mapped ends the process at the next touch (SIGBUS): no
  // call fails of which the process could hear. It then says which file that was. Replacing a file by a rename, as
  // all writers of model folders here do, leaves the mapped one whole.
  FileMapping(int descriptor, int64_t bytes, const std::string& path);
  ~FileMapping();
  FileMapping(const FileMapping&) = delete;
  FileMapping& operator=(const FileMapping&) = delete;

  // The range is not needed any more: its pages leave this process's resident set, not the page cache.
  void drop(int64_t offset, int64_t bytes);

  uint8_t* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

 private:
  uint8_t* data_;
  int64_t bytes_;
  int64_t reserved_;  // bytes of address space
};

}  // namespace nibble
