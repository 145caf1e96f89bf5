// Memory that one step after the other uses again.

#pragma once

#include <cstddef>
#include <memory>
#include <new>

namespace {

// Memory that grows and never shrinks, aligned to a cache line.
template <typename T>
class Buffer {
 public:
  T* reserve(size_t count) {
    if (count > size_) {
      data_.reset(static_cast<T*>(::operator new(count * sizeof(T), std::align_val_t(64))));
      size_ = count;
    }
    return data_.get();
  }
  T* get() const { return data_.get(); }

 private:
  struct Free {
    void operator()(T* data) const { ::operator delete(data, std::align_val_t(64)); }
  };
  std::unique_ptr<T, Free> data_;
  size_t size_ = 0;
};

}  // namespace
