// Things of many sizes cut into parts of at most one size, which are numbered together: threads share out all parts of all
// things in one call, where most things are one small part.
#pragma once

#include <cstdint>
#include <vector>

namespace nibble {

struct Part {
  int thing;           // numbered as they were added
  int64_t begin, end;  // of it
};

// Nothing is inline: backends/cpu, which is compiled for several instruction sets, shares it.
class Parts {
 public:
  explicit Parts(int64_t size);
  ~Parts();
  Parts(const Parts&) = delete;
  Parts& operator=(const Parts&) = delete;
  void add(int64_t count);
  int64_t count() const;
  Part at(int64_t number) const;

 private:
  const int64_t size_;
  std::vector<int64_t> counts_;
  std::vector<int64_t> ends_;  // one past the number of a thing's last part
};

}  // namespace nibble
