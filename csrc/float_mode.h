// Results depend on the rounding mode and on how subnormal numbers are treated. Another library
// may have changed both in the calling thread; here they are what the definition assumes.
#pragma once

#if defined(__x86_64__) || defined(_M_X64)
#include <xmmintrin.h>
#endif

namespace baltoro {

// While it lives: round to nearest, keep subnormals, trap nothing.
class FloatMode {
  public:
#if defined(__x86_64__) || defined(_M_X64)
    FloatMode() : saved_(_mm_getcsr()) { _mm_setcsr(0x1F80); }
    ~FloatMode() { _mm_setcsr(saved_); }

  private:
    unsigned saved_;
#elif defined(__aarch64__)
    FloatMode() {
        asm volatile("mrs %0, fpcr" : "=r"(saved_));
        asm volatile("msr fpcr, %0" : : "r"(0UL));
    }
    ~FloatMode() { asm volatile("msr fpcr, %0" : : "r"(saved_)); }

  private:
    unsigned long saved_ = 0;
#else
    FloatMode() {}
    ~FloatMode() {}
#endif

  public:
    FloatMode(const FloatMode&) = delete;
    FloatMode& operator=(const FloatMode&) = delete;
};

}  // namespace baltoro
