#include "dispatch.h"

#include <cstring>

#if defined(BALTORO_HAS_NEON) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace baltoro {

const std::vector<InstructionSet>& instruction_sets() {
    static const std::vector<InstructionSet> sets = {
#ifdef BALTORO_HAS_AVX512
        {"avx512",
         [] {
             return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                    __builtin_cpu_supports("avx512vnni");
         },
         avx512_kernels, &avx512_packed_attention},
#endif
#ifdef BALTORO_HAS_AVX2
        {"avx2",
         [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); },
         avx2_kernels, &avx2_packed_attention},
#endif
#ifdef BALTORO_HAS_NEON
        {"neon",
         [] {
#ifdef __linux__
             constexpr unsigned long kDotProducts = 1 << 20;  // HWCAP_ASIMDDP
             return (getauxval(AT_HWCAP) & kDotProducts) != 0;
#else
             return true;  // every one of Apple's has them
#endif
         },
         neon_kernels, &neon_packed_attention},
#endif
        {"scalar", [] { return true; }, scalar_kernels, nullptr},
    };
    return sets;
}

const Kernels* find_kernels(const char* name) {
    for (const InstructionSet& set : instruction_sets())
        if (std::strcmp(name, set.name) == 0 && set.runs_here()) return &set.kernels();
    return nullptr;
}

const Kernels& best_kernels() {
    for (const InstructionSet& set : instruction_sets())
        if (set.runs_here()) return set.kernels();
    return scalar_kernels();
}

const PackedAttentionKernels* find_packed_attention(const char* name) {
    for (const InstructionSet& set : instruction_sets())
        if ((std::strcmp(name, "auto") == 0 || std::strcmp(name, set.name) == 0) && set.runs_here())
            return set.packed_attention;
    return nullptr;
}

QuantizedRow quantized_row(uint8_t* row, size_t cols, size_t col) {
    const size_t padded = padded_cols(cols);
    uint8_t* const offsets = row + padded;
    uint8_t* const scales = offsets + padded / kGroup * sizeof(int32_t);
    return {reinterpret_cast<int8_t*>(row) + col,
            reinterpret_cast<int32_t*>(offsets) + col / kGroup,
            reinterpret_cast<float*>(scales) + col / kGroup};
}

}  // namespace baltoro
