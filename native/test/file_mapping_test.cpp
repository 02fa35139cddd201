#include "core/file_mapping.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/memory.h"
#include "test/support.h"

namespace nibble::test {

namespace {

// An open file of `bytes` bytes 0, 1, … 250, 0, … that is gone when it is closed.
class File {
 public:
  explicit File(int64_t bytes) {
    char path[] = "/tmp/nibble-mapping-XXXXXX";
    descriptor_ = mkstemp(path);
    unlink(path);
    std::vector<uint8_t> data(static_cast<size_t>(bytes));
    for (size_t i = 0; i < data.size(); ++i) data[i] = uint8_t(i % 251);
    EXPECT_EQ(write(descriptor_, data.data(), data.size()), ssize_t(bytes));
  }
  ~File() { close(descriptor_); }
  int descriptor() const { return descriptor_; }

 private:
  int descriptor_;
};

}  // namespace

TEST(FileMapping, HoldsTheFilesBytesAndZerosBehindThem) {
  for (int64_t bytes : {1, 4095, 4096, 4097, 100000}) {
    File file(bytes);
    const FileMapping mapping(file.descriptor(), bytes, "a file");
    ASSERT_EQ(mapping.bytes(), bytes);
    for (int64_t i = 0; i < bytes; ++i) ASSERT_EQ(mapping.data()[i], uint8_t(i % 251)) << i;
    for (int64_t i = bytes; i < bytes + 4096; ++i) ASSERT_EQ(mapping.data()[i], 0) << i;
  }
}

TEST(FileMapping, AnyNumberAtATimeAndAfterTheFileIsClosed) {
  std::vector<std::unique_ptr<FileMapping>> mappings;
  for (int i = 0; i < 300; ++i) {
    File file(5000);
    mappings.push_back(std::make_unique<FileMapping>(file.descriptor(), 5000, "file " + std::to_string(i)));
  }
  for (const auto& mapping : mappings) EXPECT_EQ(mapping->data()[4999], uint8_t(4999 % 251));
}

TEST(FileMapping, WhatIsDroppedIsReadAgain) {
  File file(100000);
  FileMapping mapping(file.descriptor(), 100000, "a file");
  const std::vector<std::pair<int64_t, int64_t>> ranges = {{0, 100000}, {5000, 100}, {4096, 8192}, {99999, 1}, {0, 0}};
  for (const auto& [offset, bytes] : ranges) {
    mapping.drop(offset, bytes);
    for (int64_t i = 0; i < 100000; i += 999) ASSERT_EQ(mapping.data()[i], uint8_t(i % 251)) << i;
  }
}

TEST(FileMapping, AnotherLengthIsRefused) {
  File file(1000);
  expect_error("expected 1001 bytes, got 1000", [&] { FileMapping(file.descriptor(), 1001, "weights"); });
  expect_error("weights: expected 999 bytes", [&] { FileMapping(file.descriptor(), 999, "weights"); });
  expect_error("expected bytes to map, got 0", [&] { FileMapping(file.descriptor(), 0, "weights"); });
  expect_error("weights", [&] { FileMapping(-1, 10, "weights"); });
}

TEST(Memory, CountsMappedWeights) {
  Memory memory;
  memory.set_limit(1000);
  memory.count_mapped(2000);
  EXPECT_EQ(memory.report().mapped, 2000);
  EXPECT_EQ(memory.report().current[int(Kind::kWeights)], 2000);
  EXPECT_EQ(memory.report().peak_total, 2000);
  expect_error("memory limit", [&] { memory.allocate(64, Kind::kWorkspace); });
  memory.count_mapped(-2000);
  EXPECT_EQ(memory.report().mapped, 0);
  EXPECT_EQ(memory.report().current[int(Kind::kWeights)], 0);
  memory.release(memory.allocate(64, Kind::kWeights));
}

}  // namespace nibble::test
