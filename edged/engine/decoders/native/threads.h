// The threads that compute a step, and how they wait for each other. Linux alone: pthreads and futexes, so that a
// compiled library needs no C++ library.

#pragma once

#include <linux/futex.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>

#include "buffer.h"

namespace {

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// A number that threads wait for to change. They spin for a while, then they sleep.
class Counter {
 public:
  uint32_t get() const { return value_.load(std::memory_order_acquire); }

  void increase() {
    value_.fetch_add(1);
    // A thread counts itself before it looks at the number again: either it sees the new one, or it is seen here.
    if (sleepers_.load() != 0) futex(FUTEX_WAKE_PRIVATE, INT32_MAX);
  }

  void wait_while(uint32_t old, int spins) {
    for (; get() == old; --spins) {
      relax();
      if (spins > 0) continue;
      sleepers_.fetch_add(1);
      futex(FUTEX_WAIT_PRIVATE, old);  // returns at once where the number is another by now
      sleepers_.fetch_sub(1);
    }
  }

 private:
  void futex(int operation, uint32_t value) {
    static_assert(sizeof value_ == sizeof(uint32_t));
    syscall(SYS_futex, &value_, operation, value, nullptr, nullptr, 0);
  }

  alignas(64) std::atomic<uint32_t> value_{0};
  std::atomic<uint32_t> sleepers_{0};
};

// Threads that live as long as the model. Inside a step they wait for each other by spinning, which takes a fraction
// of a microsecond; after it they spin a little, then sleep until the next step.
class Team {
 public:
  ~Team() {
    job_ = nullptr;
    call();
    for (int i = 1; i < size_; ++i) pthread_join(members_.get()[i].id, nullptr);
  }

  // Starts all threads but the caller's. False when there is no memory for them.
  [[nodiscard]] bool start(int size) {
    if (!members_.reserve(size)) return false;
    for (; size_ < size; ++size_) {
      Member& member = members_.get()[size_];
      member.team = this;
      member.number = size_;
      if (pthread_create(&member.id, nullptr, serve, &member) != 0) return false;
    }
    return true;
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
    const uint32_t round = round_.get();
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) == size_ - 1) {
      arrived_.store(0, std::memory_order_relaxed);
      next_.store(0, std::memory_order_relaxed);
      round_.increase();
      return;
    }
    round_.wait_while(round, 4096);  // longer only on a busy box, where others need this core
  }

  // Gives each caller the next `step` numbers of 0, 1, 2, ...; begins at 0 again after each `wait`.
  int take(int step) { return next_.fetch_add(step, std::memory_order_relaxed); }

  int size() const { return size_; }

 private:
  struct Member {
    pthread_t id;
    Team* team;
    int number;
  };

  void call() {
    next_.store(0, std::memory_order_relaxed);
    calls_.increase();
  }

  static void* serve(void* argument) {
    const Member& member = *static_cast<Member*>(argument);
    Team& team = *member.team;
    for (uint32_t seen = 0;; ++seen) {
      team.calls_.wait_while(seen, 20000);
      if (team.job_ == nullptr) return nullptr;
      team.job_(team.context_, member.number);
      team.wait();
    }
  }

  Buffer<Member> members_;  // that of the caller is not used
  int size_ = 1;            // threads, with the caller's
  void (*job_)(void*, int) = nullptr;
  void* context_ = nullptr;
  Counter calls_;
  Counter round_;
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<int> next_{0};
};

}  // namespace
