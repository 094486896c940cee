// Attention for training with AVX-512. See packed_attention_kernels.h.

#include "packed_attention_kernels.h"

namespace baltoro {

const PackedAttentionKernels avx512_packed_attention = {forward, backward};

}  // namespace baltoro
