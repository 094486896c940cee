// Which table of kernels runs: the instruction sets of this build, and what this CPU has of them.
#pragma once

#include <vector>

#include "kernels.h"
#include "packed_attention.h"

namespace baltoro {

// To add one, write its table in a file of its own and name it in dispatch.cpp.
struct InstructionSet {
    const char* name;
    bool (*runs_here)();  // on this CPU, under this system
    const Kernels& (*kernels)();
    const PackedAttentionKernels* packed_attention;  // null: not written for it
};
// Those of this build, fastest first; the last one is the scalar definition, which runs anywhere.
const std::vector<InstructionSet>& instruction_sets();

// The table called `name`, or null if this build or CPU does not have it.
const Kernels* find_kernels(const char* name);
// The fastest table for this CPU.
const Kernels& best_kernels();
// Of the instruction set called `name`, or with "auto" of the fastest; null if there are none.
const PackedAttentionKernels* find_packed_attention(const char* name);

}  // namespace baltoro
