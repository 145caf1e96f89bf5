// Memory that one step after the other uses again.

#pragma once

#include <cstddef>
#include <cstdlib>

namespace {

// Memory that grows and never shrinks, aligned to a cache line. Its values begin as they happen to be.
template <typename T>
class Buffer {
 public:
  Buffer() = default;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { std::free(data_); }

  // Makes room for `count` values; growing loses those that were there. False when there is no memory for them.
  [[nodiscard]] bool reserve(size_t count) {
    if (count <= size_) return true;
    std::free(data_);
    data_ = static_cast<T*>(std::aligned_alloc(64, (count * sizeof(T) + 63) / 64 * 64));
    size_ = data_ != nullptr ? count : 0;
    return data_ != nullptr;
  }

  T* get() const { return data_; }

 private:
  T* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace
