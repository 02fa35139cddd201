#include "core/spill_file.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "core/error.h"

namespace nibble {

namespace {

constexpr const char* kOp = "paging";
// statfs(2): file systems whose files are memory.
constexpr unsigned long kTmpfs = 0x01021994, kRamfs = 0x858458f6;

void refuse(Code code, const std::string& folder, const std::string& why) {
  throw Error(code, kOp, folder + ": " + why);
}

void check_folder(const std::string& folder) {
  struct statfs about {};
  if (statfs(folder.c_str(), &about) != 0)
    refuse(Code::kFailedPrecondition, folder, std::string("expected a folder for the spill file: ") + std::strerror(errno));
  const unsigned long type = static_cast<unsigned long>(about.f_type) & 0xffffffffu;
  if (type == kTmpfs || type == kRamfs)
    refuse(Code::kFailedPrecondition, folder, "expected a folder on a disk, got one in memory (tmpfs)");
}

// A file without a name.
int open_unnamed(const std::string& folder) {
  std::string path = folder + "/.nibble-spill-XXXXXX";
  const int file = mkostemp(path.data(), O_CLOEXEC);
  if (file < 0)
    refuse(Code::kFailedPrecondition, folder, std::string("expected to create a spill file: ") + std::strerror(errno));
  unlink(path.c_str());
  return file;
}

}  // namespace

void* map_spill(const std::string& folder, int64_t bytes) {
  check_folder(folder);
  const int file = open_unnamed(folder);
  const int refused = posix_fallocate(file, 0, off_t(bytes));
  if (refused != 0) {
    close(file);
    refuse(Code::kResourceExhausted, folder,
           "no room for a spill file of " + std::to_string(bytes) + " bytes: " + std::strerror(refused));
  }
  void* const data = mmap(nullptr, size_t(bytes), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  const int error = errno;
  close(file);  // the mapping keeps it
  if (data == MAP_FAILED) {
    refuse(Code::kResourceExhausted, folder,
           "the system refused to map " + std::to_string(bytes) + " bytes: " + std::strerror(error));
  }
  return data;
}

void unmap_spill(void* data, int64_t bytes) { munmap(data, size_t(bytes)); }

void advise_spill(void* data, int64_t bytes, Use use) {
#if defined(MADV_COLD)
  constexpr int kCold = MADV_COLD;
#else
  constexpr int kCold = 20;  // Linux 5.4
#endif
  madvise(data, size_t(bytes), use == Use::kSoon ? MADV_WILLNEED : kCold);
}

}  // namespace nibble
