// Attention for training with NEON. See packed_attention_kernels.h.

#include "packed_attention_kernels.h"

namespace baltoro {

const PackedAttentionKernels neon_packed_attention = {forward, backward};

}  // namespace baltoro
