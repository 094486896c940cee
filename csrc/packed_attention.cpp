#include "packed_attention.h"

#include <unistd.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <mutex>
#include <vector>

#include "float_mode.h"
#include "line_allocator.h"
#include "thread_pool.h"

namespace baltoro {

namespace {

struct Sequence {
    size_t first, length;
};

std::vector<Sequence> sequences_of(const int64_t* lengths, size_t count) {
    std::vector<Sequence> sequences;
    size_t first = 0;
    for (size_t i = 0; i < count; i++) {
        sequences.push_back({first, static_cast<size_t>(lengths[i])});
        first += sequences.back().length;
    }
    return sequences;
}

// The threads of this process. A forked child has none of its parent's and makes its own.
class Threads {
  public:
    // Calls use(pool) while nobody else has it.
    template <class Use>
    void with(size_t threads, const Use& use) {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (getpid() != owner_) (void)pool_.release();
        if (!pool_ || pool_->size() != threads) pool_ = std::make_unique<ThreadPool>(threads);
        owner_ = getpid();
        use(*pool_);
    }

  private:
    std::mutex mutex_;
    std::unique_ptr<ThreadPool> pool_;
    pid_t owner_ = 0;
};

// Calls one(item, scratch) for each head of each sequence.
template <class One>
void for_each_head(const PackedAttention& a, const std::vector<Sequence>& sequences, size_t threads,
                   const One& one) {
    static Threads shared;
    size_t most = 0, pairs = 0;
    for (const Sequence& s : sequences) {
        most = std::max(most, packed_attention_scratch(a, s.length));
        pairs += s.length * s.length;
    }
    shared.with(threads, [&](ThreadPool& pool) {
        std::vector<Floats> scratch(pool.size());
        for (auto& memory : scratch) memory.resize(most);
        pool.run(sequences.size() * a.heads, pairs * a.heads * a.query_width(),
                 [&](size_t item, size_t thread) {
                     const FloatMode mode;
                     one(sequences[item / a.heads], item, scratch[thread].data());
                 });
    });
}

constexpr size_t up_to_sixteen(size_t n) { return (n + 15) / 16 * 16; }

}  // namespace

size_t packed_attention_scratch(const PackedAttention& a, size_t length) {
    const size_t tokens = (length + kAttentionBlock - 1) / kAttentionBlock * kAttentionBlock;
    const size_t query = up_to_sixteen(a.query_width()), value = up_to_sixteen(a.value);
    return tokens * (3 * query + 2 * value) +
           kAttentionBlock * (2 * query + value + 2 * kAttentionBlock);
}

void packed_attention_forward(const PackedAttentionKernels& kernels, const PackedAttention& a,
                              const PackedAttentionOut& to, const int64_t* lengths, size_t count,
                              size_t threads, float* largest) {
    const std::vector<Sequence> sequences = sequences_of(lengths, count);
    std::vector<float> found(count * a.heads);
    for_each_head(a, sequences, threads, [&](const Sequence& s, size_t item, float* scratch) {
        found[item] = kernels.forward(a, to, s.first, s.length, item % a.heads, scratch);
    });
    std::fill_n(largest, a.heads, -std::numeric_limits<float>::infinity());
    for (size_t i = 0; i < found.size(); i++)
        largest[i % a.heads] = std::max(largest[i % a.heads], found[i]);
}

void packed_attention_backward(const PackedAttentionKernels& kernels, const PackedAttention& a,
                               const PackedAttentionGradients& g, const int64_t* lengths,
                               size_t count, size_t threads) {
    for_each_head(a, sequences_of(lengths, count), threads,
                  [&](const Sequence& s, size_t item, float* scratch) {
                      kernels.backward(a, g, s.first, s.length, item % a.heads, scratch);
                  });
}

}  // namespace baltoro
