// Causal attention of sequences that lie one behind the other, with its gradients, in f32: what
// training needs of an attention layer between its projections.
//
// Queries and keys come as the projections leave them: queries are rotated here, the rotary key is
// shared by the heads, and nothing of size tokens x tokens is ever stored (FlashAttention-2, arXiv
// 2307.08691). A sequence's head is one item of work and has one order of additions, so that
// results don't depend on threads. Unlike those of kernels.h, they do on the instruction set.
//
//   M tokens of all sequences    H heads    N qk_nope_head_dim    R qk_rope_head_dim
//   V v_head_dim
#pragma once

#include <cstddef>
#include <cstdint>

namespace baltoro {

struct PackedAttention {
    size_t heads, nope, rope, value;  // H, N, R, V
    float scale;
    const float* q;       // (M, H, N + R)
    const float* kv;      // (M, H, N + V): the head's part of a key, then its value
    const float* k_rope;  // (M, R), rotated
    const float* turns;   // (M, R): cosine and sine of each pair of a query

    size_t query_width() const { return nope + rope; }
    size_t kv_width() const { return nope + value; }
};

struct PackedAttentionOut {
    float* out;       // (M, H, V)
    float* log_sums;  // (M, H): logarithm of the sum of exponentials
};

struct PackedAttentionGradients {
    const float* d_out;     // (M, H, V)
    const float* out;       // as the forward pass left them
    const float* log_sums;
    float* d_q;             // (M, H, N + R)
    float* d_kv;            // (M, H, N + V)
    float* d_k_rope;        // (M, H, R): of each head, to be added up
};

// Queries, or keys, that are taken at once.
constexpr size_t kAttentionBlock = 48;

// Floats that the kernels need for a sequence beside what they are given.
size_t packed_attention_scratch(const PackedAttention&, size_t length);

// Of one head of the sequence of tokens first ... first + length - 1.
struct PackedAttentionKernels {
    // Returns the largest scaled logit.
    float (*forward)(const PackedAttention&, const PackedAttentionOut&, size_t first, size_t length,
                     size_t head, float* scratch);
    void (*backward)(const PackedAttention&, const PackedAttentionGradients&, size_t first,
                     size_t length, size_t head, float* scratch);
};

// All heads of all sequences, on `threads` threads. `largest` gets each head's largest scaled logit.
void packed_attention_forward(const PackedAttentionKernels&, const PackedAttention&,
                              const PackedAttentionOut&, const int64_t* lengths, size_t sequences,
                              size_t threads, float* largest);
void packed_attention_backward(const PackedAttentionKernels&, const PackedAttention&,
                               const PackedAttentionGradients&, const int64_t* lengths,
                               size_t sequences, size_t threads);

#ifdef BALTORO_HAS_AVX2
extern const PackedAttentionKernels avx2_packed_attention;
#endif
#ifdef BALTORO_HAS_AVX512
extern const PackedAttentionKernels avx512_packed_attention;
#endif
#ifdef BALTORO_HAS_NEON
extern const PackedAttentionKernels neon_packed_attention;
#endif

}  // namespace baltoro
