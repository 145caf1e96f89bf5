// The threads that compute a step, and how they wait for each other.

#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace {

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Threads that live as long as the model. Inside a step they wait for each other by spinning, which takes a fraction
// of a microsecond; after it they spin a little, then sleep until the next step.
class Team {
 public:
  explicit Team(int size) : size_(size) {
    for (int i = 1; i < size; ++i) threads_.emplace_back([this, i] { serve(i); });
  }

  ~Team() {
    job_ = nullptr;
    call();
    for (auto& thread : threads_) thread.join();
  }

  // Runs job(thread) on every thread, the caller's included.
  template <typename Job>
  void run(Job& job) {
    job_ = [](void* context, int thread) { (*static_cast<Job*>(context))(thread); };
    context_ = &job;
    call();
    job(0);
    wait();
  }

  // Waits until every thread has called `wait`.
  void wait() {
    const uint32_t round = round_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) == size_ - 1) {
      arrived_.store(0, std::memory_order_relaxed);
      next_.store(0, std::memory_order_relaxed);
      round_.store(round + 1, std::memory_order_release);
      round_.notify_all();
      return;
    }
    for (int spins = 0; round_.load(std::memory_order_acquire) == round; ++spins) {
      relax();
      if (spins > 4096) round_.wait(round, std::memory_order_acquire);  // the box is busy: others need this core
    }
  }

  // Gives each caller the next `step` numbers of 0, 1, 2, ...; begins at 0 again after each `wait`.
  int take(int step) { return next_.fetch_add(step, std::memory_order_relaxed); }

  int size() const { return size_; }

 private:
  void call() {
    next_.store(0, std::memory_order_relaxed);
    calls_.fetch_add(1, std::memory_order_release);
    calls_.notify_all();
  }

  void serve(int thread) {
    for (uint32_t seen = 0;; ++seen) {
      for (int spins = 0; calls_.load(std::memory_order_acquire) == seen; ++spins) {
        relax();
        if (spins > 20000) calls_.wait(seen, std::memory_order_acquire);
      }
      if (job_ == nullptr) return;
      job_(context_, thread);
      wait();
    }
  }

  const int size_;
  std::vector<std::thread> threads_;
  void (*job_)(void*, int) = nullptr;
  void* context_ = nullptr;
  alignas(64) std::atomic<uint32_t> calls_{0};
  alignas(64) std::atomic<uint32_t> round_{0};
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<int> next_{0};
};

}  // namespace
