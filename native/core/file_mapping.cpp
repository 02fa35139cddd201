#include "core/file_mapping.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <mutex>

#include "core/error.h"

namespace nibble {

namespace {

constexpr const char* kOp = "map_file";

// 4 KiB mostly; some ARM systems have 16 or 64.
int64_t page_bytes() {
  static const int64_t bytes = sysconf(_SC_PAGESIZE);
  return bytes;
}

// What the signal's handler may read: it takes no lock. A mapping without a place here works, but dies nameless.
struct Named {
  std::atomic<uintptr_t> begin{0};
  std::atomic<uintptr_t> end{0};
  char path[512];
};
constexpr int kNamed = 256;
Named named[kNamed];
std::mutex naming;
struct sigaction before;

void say(const char* text) {
  const ssize_t written = write(STDERR_FILENO, text, std::strlen(text));
  (void)written;
}

void on_bus_error(int, siginfo_t* info, void*) {
  const auto at = reinterpret_cast<uintptr_t>(info->si_addr);
  for (const Named& n : named) {
    if (at < n.begin.load() || at >= n.end.load()) continue;
    say("nibble: ");
    say(n.path);
    say(": was cut or became unreadable while its weights were in use; load the model again\n");
    break;
  }
  sigaction(SIGBUS, &before, nullptr);  // the instruction runs again and meets the handler that was here before
}

void name_range(uintptr_t begin, int64_t bytes, const std::string& path) {
  std::lock_guard<std::mutex> lock(naming);
  static const bool installed = [] {
    struct sigaction action {};
    action.sa_sigaction = on_bus_error;
    action.sa_flags = SA_SIGINFO;
    return sigaction(SIGBUS, &action, &before) == 0;
  }();
  (void)installed;
  for (Named& n : named) {
    if (n.end.load() != 0) continue;
    std::strncpy(n.path, path.c_str(), sizeof n.path - 1);
    n.begin = begin;
    n.end = begin + uintptr_t(bytes);
    return;
  }
}

void forget_range(uintptr_t begin) {
  std::lock_guard<std::mutex> lock(naming);
  for (Named& n : named) {
    if (n.begin.load() != begin) continue;
    n.begin = 0;
    n.end = 0;
    return;
  }
}

[[noreturn]] void refuse(Code code, const std::string& path, const std::string& why) {
  throw Error(code, kOp, path + ": " + why);
}

}  // namespace

FileMapping::FileMapping(int descriptor, int64_t bytes, const std::string& path) : bytes_(bytes) {
  require(bytes > 0, kOp, path, ": expected bytes to map, got ", bytes);
  struct stat about {};
  if (fstat(descriptor, &about) != 0) refuse(Code::kFailedPrecondition, path, std::strerror(errno));
  if (int64_t(about.st_size) != bytes) {
    refuse(Code::kDataLoss, path,
           "expected " + std::to_string(bytes) + " bytes, got " + std::to_string(about.st_size) +
               "; the file was truncated or written to since it was opened");
  }
  // Room for a page of zeros behind the file first, then the file over it.
  const int64_t page = page_bytes();
  reserved_ = (bytes + page - 1) / page * page + page;
  void* const room = mmap(nullptr, size_t(reserved_), PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (room == MAP_FAILED) refuse(Code::kResourceExhausted, path, std::strerror(errno));
  if (mmap(room, size_t(bytes), PROT_READ, MAP_SHARED | MAP_FIXED, descriptor, 0) == MAP_FAILED) {
    const int error = errno;
    munmap(room, size_t(reserved_));
    refuse(Code::kResourceExhausted, path, std::string("the system refused to map it: ") + std::strerror(error));
  }
  data_ = static_cast<uint8_t*>(room);
  name_range(reinterpret_cast<uintptr_t>(room), bytes, path);
}

FileMapping::~FileMapping() {
  forget_range(reinterpret_cast<uintptr_t>(data_));
  munmap(data_, size_t(reserved_));
}

void FileMapping::drop(int64_t offset, int64_t bytes) {
  const int64_t page = page_bytes();
  const int64_t begin = (offset + page - 1) / page * page, end = (offset + bytes) / page * page;
  if (begin < end) madvise(data_ + begin, size_t(end - begin), MADV_DONTNEED);
}

}  // namespace nibble
