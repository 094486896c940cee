// Attention for training with AVX2 and FMA. See packed_attention_kernels.h.

#include "packed_attention_kernels.h"

namespace baltoro {

const PackedAttentionKernels avx2_packed_attention = {forward, backward};

}  // namespace baltoro
