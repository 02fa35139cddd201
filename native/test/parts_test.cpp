#include "core/parts.h"

#include <gtest/gtest.h>

#include <vector>

namespace nibble::test {

TEST(Parts, CoverEachThingOnce) {
  const std::vector<int64_t> sizes{0, 5, 1, 0, 0, 16, 17, 4, 0};
  Parts parts(8);
  for (int64_t size : sizes) parts.add(size);
  EXPECT_EQ(parts.count(), 1 + 1 + 2 + 3 + 1);
  std::vector<int64_t> covered(sizes.size());
  for (int64_t i = 0; i < parts.count(); ++i) {
    const Part part = parts.at(i);
    EXPECT_EQ(part.begin, covered[size_t(part.thing)]) << "in order";
    EXPECT_GT(part.end, part.begin);
    EXPECT_LE(part.end - part.begin, 8);
    covered[size_t(part.thing)] = part.end;
  }
  EXPECT_EQ(covered, sizes);
}

TEST(Parts, OfNothingAreNone) {
  Parts parts(8);
  EXPECT_EQ(parts.count(), 0);
  parts.add(0);
  EXPECT_EQ(parts.count(), 0);
}

}  // namespace nibble::test
