// The arithmetic of packed_attention.h for any vector. Included by one file per instruction set.
//
// Queries and keys meet in squares of kBlock; only those on the diagonal hold pairs in which the
// key is later than the query. All products are of the form C += A B with rows of C in registers:
// B has its rows one behind the other, and A is read one number at a time, so either of its
// directions may be its rows.
#pragma once

#include "float_vectors.h"
#include "packed_attention.h"

namespace baltoro {

namespace {

constexpr size_t kBlock = kAttentionBlock;  // a multiple of kRows and of kWidth
// A tile of sums that fits the registers, with a row of B and one number of A.
constexpr size_t kTileVectors = 3;
#if defined(__AVX2__) && !defined(__AVX512F__)
constexpr size_t kRows = 4;
#else
constexpr size_t kRows = 8;
#endif
static_assert(kBlock % kRows == 0 && kBlock % (kTileVectors * kWidth) == 0);

constexpr size_t up_to_vectors(size_t n) { return (n + kWidth - 1) / kWidth * kWidth; }
constexpr size_t up_to_rows(size_t n) { return (n + kRows - 1) / kRows * kRows; }
constexpr size_t blocks_of(size_t n) { return (n + kBlock - 1) / kBlock; }

// A number of A is at[row * row_step + depth * depth_step].
struct Numbers {
    const float* at;
    size_t row_step, depth_step;
};

// kRows rows of C, V vectors of them, += A B for `depth` numbers; a fresh C is not read.
template <size_t V, bool fresh>
inline void multiply_tile(Numbers a, const float* b, size_t b_step, size_t depth, float* c,
                          size_t c_step) {
    using F = FloatVectors;
    Vector sums[kRows][V];
    for (size_t r = 0; r < kRows; r++)
        for (size_t v = 0; v < V; v++)
            sums[r][v] = fresh ? F::set1(0.0f) : F::load(c + r * c_step + v * kWidth);
    for (size_t d = 0; d < depth; d++) {
        Vector row[V];
        for (size_t v = 0; v < V; v++) row[v] = F::load(b + d * b_step + v * kWidth);
        for (size_t r = 0; r < kRows; r++) {
            const Vector x = F::set1(a.at[r * a.row_step + d * a.depth_step]);
            for (size_t v = 0; v < V; v++) sums[r][v] = F::fmadd(x, row[v], sums[r][v]);
        }
    }
    for (size_t r = 0; r < kRows; r++)
        for (size_t v = 0; v < V; v++) F::store(c + r * c_step + v * kWidth, sums[r][v]);
}

// The same for `cols` numbers of each row, a multiple of kWidth.
template <bool fresh>
inline void multiply(Numbers a, const float* b, size_t b_step, size_t depth, float* c,
                     size_t c_step, size_t cols) {
    size_t col = 0;
    for (; col + kTileVectors * kWidth <= cols; col += kTileVectors * kWidth)
        multiply_tile<kTileVectors, fresh>(a, b + col, b_step, depth, c + col, c_step);
    if (col + 2 * kWidth <= cols) {
        multiply_tile<2, fresh>(a, b + col, b_step, depth, c + col, c_step);
        col += 2 * kWidth;
    }
    if (col < cols) multiply_tile<1, fresh>(a, b + col, b_step, depth, c + col, c_step);
}

// exp(x) for x <= 0, by the polynomial of kernels.h.
inline Vector exp_of(Vector x) {
    using namespace exp_constants;
    using F = FloatVectors;
    typedef int32_t Integers __attribute__((vector_size(sizeof(Vector))));
    const Vector lowest = F::set1(kLowest);
    const Vector bounded = lowest > x ? lowest : x;  // NaN stays
    const Vector shifted = F::fmadd(bounded, F::set1(kInverseLn2), F::set1(kRound));
    const Vector n = shifted - F::set1(kRound);
    Vector r = F::fmadd(n, F::set1(-kLn2High), bounded);
    r = F::fmadd(n, F::set1(-kLn2Low), r);
    Vector p = F::set1(kTaylor[7]);
    for (int i = 6; i >= 0; i--) p = F::fmadd(p, r, F::set1(kTaylor[i]));
    const Integers bits = (Integers)p + ((Integers)shifted << 23);
    return (Vector)bits;
}

inline Vector larger(Vector a, Vector b) { return a > b ? a : b; }

inline float largest_of(Vector x) {
#if defined(__AVX512F__)
    return _mm512_reduce_max_ps(x);
#elif defined(__AVX2__)
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
#else
    return vmaxvq_f32(x);
#endif
}

inline float sum_of(Vector x) {
    float lane[kWidth];
    FloatVectors::store(lane, x);
    for (size_t half = kWidth / 2; half > 0; half /= 2)
        for (size_t l = 0; l < half; l++) lane[l] += lane[l + half];
    return lane[0];
}

// Parts of the scratch memory, each on cache lines of its own.
class Scratch {
  public:
    explicit Scratch(float* memory) : next_(memory) {}
    float* take(size_t floats) {
        float* taken = next_;
        next_ += (floats + kAlign - 1) / kAlign * kAlign;
        return taken;
    }

  private:
    static constexpr size_t kAlign = 16;
    float* next_;
};

class PackedHead {
  public:
    PackedHead(const PackedAttention& a, size_t first, size_t length, size_t head)
        : a_(a),
          first_(first),
          length_(length),
          head_(head),
          query_cols_(up_to_vectors(a.query_width())),
          value_cols_(up_to_vectors(a.value)) {}

    float forward(const PackedAttentionOut& to, float* memory) {
        const size_t padded = blocks_of(length_) * kBlock;
        Scratch scratch(memory);
        keys_ = scratch.take(padded * a_.query_width());
        values_ = scratch.take(padded * value_cols_);
        queries_ = scratch.take(kBlock * query_cols_);
        float* const sums = scratch.take(kBlock * value_cols_);
        weights_ = scratch.take(kBlock * kBlock);
        turn_keys(keys_);
        copy_values(values_);
        float largest = -__builtin_inff();
        for (size_t query = 0; query < length_; query += kBlock) {
            const float of_block = attend(query, sums, to);
            largest = of_block > largest ? of_block : largest;
        }
        return largest;
    }

    void backward(const PackedAttentionGradients& g, float* memory) {
        const size_t padded = blocks_of(length_) * kBlock;
        Scratch scratch(memory);
        keys_ = scratch.take(padded * a_.query_width());
        values_ = scratch.take(padded * a_.value);
        float* const key_rows = scratch.take(padded * query_cols_);
        float* const d_keys = scratch.take(padded * query_cols_);
        float* const d_values = scratch.take(padded * value_cols_);
        queries_ = scratch.take(kBlock * query_cols_);
        float* const d_queries = scratch.take(kBlock * query_cols_);
        float* const d_out = scratch.take(kBlock * value_cols_);
        weights_ = scratch.take(kBlock * kBlock);
        float* const d_weights = scratch.take(kBlock * kBlock);
        turn_keys(keys_);
        turn_values(values_);
        copy_keys(key_rows);
        __builtin_memset(d_keys, 0, padded * query_cols_ * sizeof(float));
        __builtin_memset(d_values, 0, padded * value_cols_ * sizeof(float));
        for (size_t query = 0; query < length_; query += kBlock)
            attend_back(query, g, key_rows, d_keys, d_values, d_queries, d_out, d_weights);
        store_d_keys(d_keys, d_values, g);
    }

  private:
    using F = FloatVectors;

    const float* query_at(size_t token) const {
        return a_.q + ((first_ + token) * a_.heads + head_) * a_.query_width();
    }
    const float* kv_at(size_t token) const {
        return a_.kv + ((first_ + token) * a_.heads + head_) * a_.kv_width();
    }
    size_t out_at(size_t token) const { return ((first_ + token) * a_.heads + head_) * a_.value; }
    size_t row_at(size_t token) const { return (first_ + token) * a_.heads + head_; }
    float key_at(size_t token, size_t dim) const {
        return dim < a_.nope ? kv_at(token)[dim]
                             : a_.k_rope[(first_ + token) * a_.rope + dim - a_.nope];
    }

    // Block after block, (width, kBlock) each: the numbers of a dimension for kBlock tokens.
    // Tokens beyond the end are zeros.
    template <class At>
    void turn(size_t width, float* to, const At& at) const {
        for (size_t start = 0; start < length_; start += kBlock, to += width * kBlock) {
            const size_t there = length_ - start < kBlock ? length_ - start : kBlock;
            for (size_t dim = 0; dim < width; dim++) {
                for (size_t i = 0; i < there; i++) to[dim * kBlock + i] = at(start + i, dim);
                for (size_t i = there; i < kBlock; i++) to[dim * kBlock + i] = 0.0f;
            }
        }
    }

    void turn_keys(float* to) const {
        turn(a_.query_width(), to, [this](size_t token, size_t dim) { return key_at(token, dim); });
    }

    void turn_values(float* to) const {
        turn(a_.value, to,
             [this](size_t token, size_t dim) { return kv_at(token)[a_.nope + dim]; });
    }

    // Rows of `cols` numbers, zeros behind the `width` that there are.
    static void copy_row(const float* from, size_t width, float* to, size_t cols) {
        __builtin_memcpy(to, from, width * sizeof(float));
        for (size_t i = width; i < cols; i++) to[i] = 0.0f;
    }

    void copy_keys(float* to) const {
        for (size_t token = 0; token < length_; token++, to += query_cols_) {
            copy_row(kv_at(token), a_.nope, to, query_cols_);
            __builtin_memcpy(to + a_.nope, a_.k_rope + (first_ + token) * a_.rope,
                             a_.rope * sizeof(float));
        }
    }

    void copy_values(float* to) const {
        for (size_t token = 0; token < length_; token++, to += value_cols_)
            copy_row(kv_at(token) + a_.nope, a_.value, to, value_cols_);
    }

    // The block's queries, rotated and scaled; zeros beyond the sequence's end.
    void take_queries(size_t query) const {
        const size_t there = length_ - query < kBlock ? length_ - query : kBlock;
        __builtin_memset(queries_, 0, kBlock * query_cols_ * sizeof(float));
        for (size_t i = 0; i < there; i++) {
            const float* from = query_at(query + i);
            const float* turn = a_.turns + (first_ + query + i) * a_.rope;
            float* to = queries_ + i * query_cols_;
            for (size_t d = 0; d < a_.nope; d++) to[d] = from[d] * a_.scale;
            from += a_.nope, to += a_.nope;
            for (size_t d = 0; d < a_.rope; d += 2) {
                to[d] = (from[d] * turn[d] - from[d + 1] * turn[d + 1]) * a_.scale;
                to[d + 1] = (from[d] * turn[d + 1] + from[d + 1] * turn[d]) * a_.scale;
            }
        }
    }

    // A square of queries from `query` and keys from `key`: how much of it there is. In a panel of
    // kRows rows on the diagonal, only so many keys are seen as the last of its queries sees.
    struct Square {
        size_t query, key, queries;
        bool diagonal() const { return query == key; }
        size_t seen(size_t row) const { return diagonal() ? row + kRows : kBlock; }
    };

    Square square(size_t query, size_t key) const {
        return {query, key, length_ - query < kBlock ? length_ - query : kBlock};
    }

    // (kBlock, kBlock) products of rows of `a`, `width` long, with turned rows of keys or values.
    void meet(const Square& s, const float* a, size_t a_cols, const float* turned, size_t width,
              float* to) const {
        const float* b = turned + s.key * width;
        for (size_t row = 0; row < s.queries; row += kRows)
            multiply<true>({a + row * a_cols, a_cols, 1}, b, kBlock, width, to + row * kBlock,
                           kBlock, up_to_vectors(s.seen(row)));
    }

    // A row's keys that are later than its query get minus infinity, up to what its panel sees.
    static size_t hide_later(const Square& s, size_t row, float* logits) {
        const size_t cols = up_to_vectors(s.seen(row / kRows * kRows));
        if (s.diagonal())
            for (size_t i = row + 1; i < cols; i++) logits[i] = -__builtin_inff();
        return cols;
    }

    float attend(size_t query, float* sums, const PackedAttentionOut& to) {
        take_queries(query);
        __builtin_memset(sums, 0, kBlock * value_cols_ * sizeof(float));
        float best[kBlock];
        Vector parts[kBlock];  // of the sum of exponentials
        for (size_t row = 0; row < kBlock; row++) {
            best[row] = -__builtin_inff();
            parts[row] = F::set1(0.0f);
        }
        for (size_t key = 0; key <= query; key += kBlock) {
            const Square s = square(query, key);
            meet(s, queries_, query_cols_, keys_, a_.query_width(), weights_);
            for (size_t row = 0; row < s.queries; row++)
                weigh(s, row, best[row], parts[row], sums + row * value_cols_);
            for (size_t row = 0; row < s.queries; row += kRows)
                multiply<false>({weights_ + row * kBlock, kBlock, 1}, values_ + key * value_cols_,
                                value_cols_, keys_there(s, row), sums + row * value_cols_,
                                value_cols_, value_cols_);
        }
        return store_out(query, sums, best, parts, to);
    }

    // Not more than the sequence has: behind its end values_ holds anything.
    size_t keys_there(const Square& s, size_t row) const {
        const size_t there = length_ - s.key, seen = s.seen(row);
        return there < seen ? there : seen;
    }

    // The row's logits become weights under its largest logit so far; what was added up under a
    // smaller one is made less.
    void weigh(const Square& s, size_t row, float& best, Vector& parts, float* sums) const {
        float* const logits = weights_ + row * kBlock;
        const size_t cols = hide_later(s, row, logits);
        Vector most = F::load(logits);
        for (size_t i = kWidth; i < cols; i += kWidth) most = larger(most, F::load(logits + i));
        const float largest = largest_of(most);
        if (largest > best) {
            const Vector less = exp_of(F::set1(best - largest));
            parts = parts * less;
            for (size_t i = 0; i < value_cols_; i += kWidth)
                F::store(sums + i, F::load(sums + i) * less);
            best = largest;
        }
        const Vector under = F::set1(best);
        for (size_t i = 0; i < cols; i += kWidth) {
            const Vector weight = exp_of(F::load(logits + i) - under);
            F::store(logits + i, weight);
            parts = parts + weight;
        }
    }

    float store_out(size_t query, const float* sums, const float* best, const Vector* parts,
                    const PackedAttentionOut& to) const {
        float largest = -__builtin_inff();
        for (size_t row = 0; row < kBlock && query + row < length_; row++) {
            const float sum = sum_of(parts[row]);
            float* out = to.out + out_at(query + row);
            for (size_t i = 0; i < a_.value; i++) out[i] = sums[row * value_cols_ + i] / sum;
            to.log_sums[row_at(query + row)] = best[row] + __builtin_logf(sum);
            largest = best[row] > largest ? best[row] : largest;
        }
        return largest;
    }

    void attend_back(size_t query, const PackedAttentionGradients& g, const float* key_rows,
                     float* d_keys, float* d_values, float* d_queries, float* d_out,
                     float* d_weights) {
        take_queries(query);
        float dots[kBlock];
        take_d_out(query, g, d_out, dots);
        __builtin_memset(d_queries, 0, kBlock * query_cols_ * sizeof(float));
        for (size_t key = 0; key <= query; key += kBlock) {
            const Square s = square(query, key);
            meet(s, queries_, query_cols_, keys_, a_.query_width(), weights_);
            meet(s, d_out, value_cols_, values_, a_.value, d_weights);
            for (size_t row = 0; row < s.queries; row++)
                weigh_back(s, row, g.log_sums[row_at(query + row)], dots[row], d_weights);
            add_to_keys(s, weights_, d_out, value_cols_, d_values + key * value_cols_);
            add_to_keys(s, d_weights, queries_, query_cols_, d_keys + key * query_cols_);
            for (size_t row = 0; row < s.queries; row += kRows)
                multiply<false>({d_weights + row * kBlock, kBlock, 1}, key_rows + key * query_cols_,
                                query_cols_, keys_there(s, row), d_queries + row * query_cols_,
                                query_cols_, query_cols_);
        }
        store_d_queries(query, d_queries, g);
    }

    // The block's gradients and each row's product with what it gave.
    void take_d_out(size_t query, const PackedAttentionGradients& g, float* d_out,
                    float* dots) const {
        __builtin_memset(d_out, 0, kBlock * value_cols_ * sizeof(float));
        for (size_t row = 0; row < kBlock && query + row < length_; row++) {
            const float* from = g.d_out + out_at(query + row);
            const float* out = g.out + out_at(query + row);
            copy_row(from, a_.value, d_out + row * value_cols_, value_cols_);
            dots[row] = 0.0f;
            for (size_t i = 0; i < a_.value; i++) dots[row] += from[i] * out[i];
        }
    }

    // Logits become weights, and gradients of weights those of logits.
    void weigh_back(const Square& s, size_t row, float log_sum, float dot, float* d_weights) const {
        float* const logits = weights_ + row * kBlock;
        float* const d_logits = d_weights + row * kBlock;
        const size_t cols = hide_later(s, row, logits);
        for (size_t i = 0; i < cols; i += kWidth) {
            const Vector weight = exp_of(F::load(logits + i) - F::set1(log_sum));
            F::store(logits + i, weight);
            F::store(d_logits + i, weight * (F::load(d_logits + i) - F::set1(dot)));
        }
        for (size_t i = row + 1; s.diagonal() && i < cols; i++) logits[i] = d_logits[i] = 0.0f;
    }

    // Each key gets its weights' share of the rows of all queries that see it.
    void add_to_keys(const Square& s, const float* weights, const float* rows, size_t cols,
                     float* to) const {
        const size_t keys = length_ - s.key < kBlock ? length_ - s.key : kBlock;
        for (size_t key = 0; key < keys; key += kRows) {
            const size_t from = s.diagonal() ? key : 0;  // the first query that sees one of them
            multiply<false>({weights + from * kBlock + key, 1, kBlock}, rows + from * cols, cols,
                            s.queries - from, to + key * cols, cols, cols);
        }
    }

    void store_d_queries(size_t query, const float* d_queries,
                         const PackedAttentionGradients& g) const {
        for (size_t row = 0; row < kBlock && query + row < length_; row++) {
            const float* from = d_queries + row * query_cols_;
            const float* turn = a_.turns + (first_ + query + row) * a_.rope;
            float* to = g.d_q + row_at(query + row) * a_.query_width();
            for (size_t d = 0; d < a_.nope; d++) to[d] = from[d] * a_.scale;
            from += a_.nope, to += a_.nope;
            for (size_t d = 0; d < a_.rope; d += 2) {
                to[d] = (from[d] * turn[d] + from[d + 1] * turn[d + 1]) * a_.scale;
                to[d + 1] = (from[d + 1] * turn[d] - from[d] * turn[d + 1]) * a_.scale;
            }
        }
    }

    void store_d_keys(const float* d_keys, const float* d_values,
                      const PackedAttentionGradients& g) const {
        for (size_t token = 0; token < length_; token++) {
            const size_t row = row_at(token);
            float* kv = g.d_kv + row * a_.kv_width();
            const float* key = d_keys + token * query_cols_;
            __builtin_memcpy(kv, key, a_.nope * sizeof(float));
            __builtin_memcpy(kv + a_.nope, d_values + token * value_cols_,
                             a_.value * sizeof(float));
            __builtin_memcpy(g.d_k_rope + row * a_.rope, key + a_.nope, a_.rope * sizeof(float));
        }
    }

    const PackedAttention& a_;
    const size_t first_, length_, head_;
    const size_t query_cols_, value_cols_;  // of padded rows
    float* keys_ = nullptr;     // turned
    float* values_ = nullptr;   // rows for the forward pass, turned for the backward one
    float* queries_ = nullptr;  // (kBlock, query_cols_)
    float* weights_ = nullptr;  // (kBlock, kBlock), logits before
};

float forward(const PackedAttention& a, const PackedAttentionOut& to, size_t first, size_t length,
              size_t head, float* scratch) {
    return PackedHead(a, first, length, head).forward(to, scratch);
}

void backward(const PackedAttention& a, const PackedAttentionGradients& g, size_t first,
              size_t length, size_t head, float* scratch) {
    PackedHead(a, first, length, head).backward(g, scratch);
}

}  // namespace

}  // namespace baltoro
