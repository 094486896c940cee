// The Python face of the engine: baltoro._native. Use it through baltoro/kernels.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>

#include "bf16.h"
#include "dispatch.h"
#include "float_mode.h"
#include "model.h"
#include "packed_attention.h"
#include "placement.h"
#include "read_probe.h"
#include "sampler.h"
#include "weight_memory.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace baltoro {
namespace {

using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using FloatRows = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using FloatPlanes = nb::ndarray<const float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using Lengths = nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Ints = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using IntRows = nb::ndarray<const int32_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Choices = nb::ndarray<int32_t, nb::ndim<3>, nb::c_contig, nb::device::cpu>;

template <class T>
nb::ndarray<nb::numpy, T> array(T* data, std::vector<size_t> shape) {
    nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<T*>(p); });
    return nb::ndarray<nb::numpy, T>(data, shape.size(), shape.data(), owner);
}

// An array that keeps a part of the memory for weights.
nb::ndarray<nb::numpy, uint8_t> array(const std::shared_ptr<uint8_t>& memory, size_t bytes) {
    nb::capsule owner(new std::shared_ptr<uint8_t>(memory), [](void* p) noexcept {
        delete static_cast<std::shared_ptr<uint8_t>*>(p);
    });
    return nb::ndarray<nb::numpy, uint8_t>(memory.get(), {bytes}, owner);
}

WeightMemory& weight_memory() {
    static WeightMemory memory;
    return memory;
}

const Kernels& kernels_named(const std::string& name) {
    const Kernels* kernels = name == "auto" ? &best_kernels() : find_kernels(name.c_str());
    if (!kernels)
        throw std::invalid_argument("there are no '" + name +
                                    "' kernels for this CPU in this build");
    return *kernels;
}

// A matrix together with the arrays that keep its bytes alive.
struct HeldMatrix {
    Matrix matrix;
    Bytes data;
    std::optional<Bytes> scales;

    HeldMatrix(const std::string& format, size_t rows, size_t cols, Bytes d, std::optional<Bytes> s)
        : data(std::move(d)), scales(std::move(s)) {
        if (format == "bf16")
            matrix.format = Format::kBf16;
        else if (format == "f32")
            matrix.format = Format::kF32;
        else if (format == "int4")
            matrix.format = Format::kInt4;
        else if (format == "int8")
            matrix.format = Format::kInt8;
        else
            throw std::invalid_argument("there is no matrix format '" + format + "'");
        matrix.rows = rows;
        matrix.cols = cols;
        matrix.data = data.data();
        if (data.size() != rows * matrix.row_bytes())
            throw std::invalid_argument("the data of a matrix does not fit its shape");
        if (!matrix.has_scales()) return;
        if (cols % kGroup || !scales || scales->size() != rows * matrix.scale_row_bytes())
            throw std::invalid_argument("the scales of a matrix do not fit its shape");
        matrix.scales = scales->data();
    }
};

// An INT8 copy (rows, cols) of bf16 rows; `row(r, buffer)` gives row r, in `buffer` if it must.
template <class Row>
HeldMatrix int8_matrix(size_t rows, size_t cols, size_t threads, const Row& row) {
    const size_t code_bytes = padded_cols(cols), scale_count = cols / kGroup;
    const auto codes = weight_memory().take(rows * code_bytes);
    const auto scales = weight_memory().take(rows * scale_count * 2);
    {
        nb::gil_scoped_release release;
        ThreadPool pool(threads);
        std::vector<std::vector<uint16_t>> buffers(threads, std::vector<uint16_t>(cols));
        pool.run(rows, rows * cols, [&](size_t r, size_t thread) {
            const FloatMode mode;
            make_int8_row(row(r, buffers[thread].data()), cols,
                          reinterpret_cast<int8_t*>(codes.get() + r * code_bytes),
                          reinterpret_cast<uint16_t*>(scales.get() + 2 * r * scale_count));
        });
    }
    return HeldMatrix("int8", rows, cols, Bytes(array(codes, rows * code_bytes)),
                      Bytes(array(scales, rows * scale_count * 2)));
}

const Matrix& bf16_in_groups(const HeldMatrix& held) {
    if (held.matrix.format != Format::kBf16 || held.matrix.cols % kGroup)
        throw std::invalid_argument("an INT8 copy needs a bf16 matrix with whole groups");
    return held.matrix;
}

HeldMatrix int8_copy(const HeldMatrix& held, size_t threads) {
    const Matrix& w = bf16_in_groups(held);
    return int8_matrix(w.rows, w.cols, threads, [&](size_t r, uint16_t*) {
        return w.data + r * w.row_bytes();
    });
}

// Layer::k_absorb and Layer::v_expand of a kv_b_proj whose heads have `nope` and `value` rows.
nb::tuple int8_kv_copies(const HeldMatrix& held, size_t nope, size_t value, size_t threads) {
    const Matrix& w = bf16_in_groups(held);
    if (nope % kGroup || w.rows % (nope + value))
        throw std::invalid_argument("the heads of kv_b_proj have no whole groups");
    const size_t heads = w.rows / (nope + value), rank = w.cols;
    const auto head_row = [&](size_t head, size_t row) {
        return w.data + (head * (nope + value) + row) * w.row_bytes();
    };
    HeldMatrix keys = int8_matrix(heads * rank, nope, threads, [&](size_t r, uint16_t* buffer) {
        for (size_t i = 0; i < nope; i++)
            std::memcpy(buffer + i, head_row(r / rank, i) + 2 * (r % rank), 2);
        return reinterpret_cast<const uint8_t*>(buffer);
    });
    HeldMatrix values = int8_matrix(heads * value, rank, threads, [&](size_t r, uint16_t*) {
        return head_row(r / value, nope + r % value);
    });
    return nb::make_tuple(std::move(keys), std::move(values));
}

using HeldMlp = std::vector<HeldMatrix*>;  // gate, up, down

Mlp to_mlp(const HeldMlp& held) {
    if (held.size() != 3) throw std::invalid_argument("an MLP has three matrices: gate, up, down");
    return {held[0]->matrix, held[1]->matrix, held[2]->matrix};
}

// A layer being put together; its matrices are kept alive by the list of the model's Python side.
void set_attention(Layer& layer, const HeldMatrix* q_a_proj, Vector q_a_layernorm,
                   const HeldMatrix& q_proj, const HeldMatrix& kv_a_proj_with_mqa,
                   Vector kv_a_layernorm, const HeldMatrix& kv_b_proj, const HeldMatrix& o_proj,
                   const HeldMatrix* k_absorb, const HeldMatrix* v_expand) {
    if (q_a_proj) layer.q_a_proj = q_a_proj->matrix;
    layer.q_a_layernorm = std::move(q_a_layernorm);
    layer.q_proj = q_proj.matrix;
    layer.kv_a_proj_with_mqa = kv_a_proj_with_mqa.matrix;
    layer.kv_a_layernorm = std::move(kv_a_layernorm);
    layer.kv_b_proj = kv_b_proj.matrix;
    layer.o_proj = o_proj.matrix;
    if (k_absorb) layer.k_absorb = k_absorb->matrix;
    if (v_expand) layer.v_expand = v_expand->matrix;
}

void set_router(Layer& layer, const HeldMatrix& gate, Vector bias,
                const std::vector<HeldMlp>& experts) {
    layer.router = gate.matrix;
    layer.e_score_correction_bias = std::move(bias);
    layer.experts.clear();
    layer.experts.reserve(experts.size());
    for (const HeldMlp& expert : experts) layer.experts.push_back(to_mlp(expert));
}

void check_range(const char* name, const int32_t* values, size_t count, size_t end) {
    for (size_t i = 0; i < count; i++)
        if (values[i] < 0 || static_cast<size_t>(values[i]) >= end)
            throw std::invalid_argument(std::string(name) + "[" + std::to_string(i) + "] is " +
                                        std::to_string(values[i]) + "; it must be from 0 to " +
                                        std::to_string(static_cast<int64_t>(end) - 1) + ".");
}

// Everything that indexes memory, and the order of positions. Shapes have been checked in Python,
// in baltoro/kernels/arguments.py, which also holds the same checks for the reference.
void check_batch(const Config& config, const Batch& batch, size_t num_sequences) {
    const size_t context = batch.table_width * config.block_tokens;
    check_range("tokens", batch.tokens, batch.n, config.vocab_size);
    check_range("positions", batch.positions, batch.n, context);
    check_range("sequence_of_token", batch.sequence_of_token, batch.n, num_sequences);
    check_range("logit_rows", batch.logit_rows, batch.num_logit_rows, batch.n);
    std::vector<int32_t> last(num_sequences, -1);
    for (size_t t = 0; t < batch.n; t++) {
        const int32_t sequence = batch.sequence_of_token[t];
        int32_t& position = last[static_cast<size_t>(sequence)];
        if (batch.positions[t] <= position)
            throw std::invalid_argument("positions of sequence " + std::to_string(sequence) +
                                        " do not ascend; give each token once, in order.");
        position = batch.positions[t];
    }
    for (size_t s = 0; s < num_sequences; s++) {
        if (last[s] < 0) continue;
        const std::string name = "block_tables[" + std::to_string(s) + "]";
        const size_t used = static_cast<size_t>(last[s]) / config.block_tokens + 1;
        check_range(name.c_str(), batch.block_tables + s * batch.table_width, used,
                    config.num_blocks);
    }
}

nb::ndarray<nb::numpy, float> step(Model& model, Ints tokens, Ints positions,
                                   Ints sequence_of_token, IntRows block_tables, Ints logit_rows,
                                   std::optional<Choices> expert_choices) {
    Batch batch{};
    batch.n = tokens.size();
    batch.tokens = tokens.data();
    batch.positions = positions.data();
    batch.sequence_of_token = sequence_of_token.data();
    batch.block_tables = block_tables.data();
    batch.table_width = block_tables.shape(1);
    batch.num_logit_rows = logit_rows.size();
    batch.logit_rows = logit_rows.data();
    batch.expert_choices = expert_choices ? expert_choices->data() : nullptr;
    check_batch(model.config(), batch, block_tables.shape(0));
    const size_t vocab = model.config().vocab_size;
    float* logits = new float[batch.num_logit_rows * vocab];
    auto result = array(logits, {batch.num_logit_rows, vocab});
    if (batch.n > 0) {
        nb::gil_scoped_release release;
        model.step(batch, logits);
    }
    return result;
}

// Without the step's lock: a block that is read or written here is in no step's table that writes
// or reads it, which the callers see to (StepModel in baltoro/kernels/step.py).
nb::ndarray<nb::numpy, uint8_t> read_block(Model& model, size_t block) {
    const size_t layers = model.num_layers(), bytes = model.block_bytes();
    uint8_t* data = new uint8_t[layers * bytes];
    auto result = array(data, {layers, model.config().block_tokens, model.cache_row_bytes()});
    nb::gil_scoped_release release;
    for (size_t layer = 0; layer < layers; layer++)
        std::memcpy(data + layer * bytes, model.cache_block(layer, block), bytes);
    return result;
}

void write_block(Model& model, size_t block, Bytes data) {
    const size_t layers = model.num_layers(), bytes = model.block_bytes();
    if (data.size() != layers * bytes) throw std::invalid_argument("not the bytes of a block");
    nb::gil_scoped_release release;
    for (size_t layer = 0; layer < layers; layer++)
        std::memcpy(model.cache_block(layer, block), data.data() + layer * bytes, bytes);
}

// The MLP of one layer: x + MLP(norm(x)), a new array.
nb::ndarray<nb::numpy, float> run_mlp(Model& model, size_t layer, FloatRows x) {
    const size_t n = x.shape(0), hidden = model.config().hidden_size;
    if (layer >= model.num_layers() || x.shape(1) != hidden)
        throw std::invalid_argument("there is no such layer, or x is not as wide as the model");
    float* y = new float[n * hidden];
    auto result = array(y, {n, hidden});
    std::memcpy(y, x.data(), n * hidden * sizeof(float));
    nb::gil_scoped_release release;
    if (n > 0) model.run_mlp(layer, n, y);
    return result;
}

ExpertStore& store_of(Model& model) {
    if (!model.store()) throw std::invalid_argument("the experts of this model are in memory");
    return *model.store();
}

// Each file as its path and the mapping that the experts' matrices point into.
void stream_experts(Model& model, const std::vector<std::pair<std::string, Bytes>>& files,
                    size_t arena_bytes, size_t io_threads) {
    std::vector<MappedFile> mapped;
    for (const auto& [path, data] : files) mapped.push_back({path, data.data(), data.size()});
    model.stream_experts(mapped, arena_bytes, io_threads);
}

nb::tuple stream_counts(Model& model) {
    const ExpertStore::Counts counts = store_of(model).counts();
    return nb::make_tuple(counts.hits, counts.misses, counts.bytes_read, counts.seconds_waited);
}

// ---- the draw of tokens

using Mask = nb::ndarray<const bool, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Doubles = nb::ndarray<const double, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// A DrawRow together with the arrays that it points into.
struct HeldDrawRow {
    DrawRow row;
    std::optional<Mask> mask;
    std::optional<Ints> changed;
    std::optional<Doubles> changed_scores;
};

void make_draw_row(HeldDrawRow* self, double temperature, double top_p, size_t top_k, double min_p,
                   size_t top_logprobs, uint64_t seed, uint64_t position,
                   std::optional<size_t> forced, std::optional<Mask> mask,
                   std::optional<Ints> changed, std::optional<Doubles> changed_scores) {
    if (changed.has_value() != changed_scores.has_value() ||
        (changed && changed->size() != changed_scores->size()))
        throw std::invalid_argument("each changed token needs a score");
    new (self) HeldDrawRow{{}, std::move(mask), std::move(changed), std::move(changed_scores)};
    DrawRow& row = self->row;
    row.temperature = temperature;
    row.top_p = top_p;
    row.min_p = min_p;
    row.top_k = top_k;
    row.top_logprobs = top_logprobs;
    row.seed = seed;
    row.position = position;
    row.forced = forced ? static_cast<int64_t>(*forced) : -1;
    row.mask = self->mask ? self->mask->data() : nullptr;
    row.changed = self->changed ? self->changed->data() : nullptr;
    row.changed_scores = self->changed ? self->changed_scores->data() : nullptr;
    row.num_changed = self->changed ? self->changed->size() : 0;
}

void check_draw_row(const HeldDrawRow& held, size_t vocab) {
    const int32_t forced = static_cast<int32_t>(held.row.forced);
    if (held.row.forced >= 0) check_range("forced", &forced, 1, vocab);
    if (held.row.changed) check_range("changed", held.row.changed, held.row.num_changed, vocab);
    if (held.mask && held.mask->size() != vocab)
        throw std::invalid_argument("the mask has " + std::to_string(held.mask->size()) +
                                    " entries for " + std::to_string(vocab) + " logits");
}

// One tuple for each row of logits: outcome, token, log-prob, sampled log-prob, most likely tokens.
nb::list draw_rows(const std::string& name, FloatRows logits,
                   const std::vector<const HeldDrawRow*>& rows) {
    const size_t vocab = logits.shape(1);
    if (rows.size() != logits.shape(0) || vocab == 0)
        throw std::invalid_argument("each row of logits needs its settings");
    for (const HeldDrawRow* held : rows) check_draw_row(*held, vocab);
    const RowMath& math = kernels_named(name).rows;
    std::vector<Drawn> drawn;
    {
        nb::gil_scoped_release release;
        const FloatMode mode;
        for (size_t i = 0; i < rows.size(); i++)
            drawn.push_back(draw(math, logits.data() + i * vocab, vocab, rows[i]->row));
    }
    nb::list found;
    for (const Drawn& d : drawn)
        found.append(nb::make_tuple(static_cast<int>(d.outcome), d.token, d.logprob,
                                    d.sampled_logprob, d.top));
    return found;
}

// ---- single kernels, for tests and benches

nb::ndarray<nb::numpy, float> dequantized(const HeldMatrix& held) {
    const Matrix& w = held.matrix;
    if (w.format != Format::kInt8) throw std::invalid_argument("not an INT8 matrix");
    float* y = new float[w.rows * w.cols];
    auto result = array(y, {w.rows, w.cols});
    for (size_t r = 0; r < w.rows; r++)
        for (size_t i = 0; i < w.cols; i++) {
            const float scale = bf16_at(w.scales + r * w.scale_row_bytes() + i / kGroup * 2);
            const int8_t code =
                reinterpret_cast<const int8_t*>(w.data + r * w.row_bytes())[code_position(i)];
            y[r * w.cols + i] = scale * static_cast<float>(code);
        }
    return result;
}

nb::ndarray<nb::numpy, float> matmul(const std::string& name, const HeldMatrix& held, FloatRows x,
                                     bool int8) {
    const Kernels& kernels = kernels_named(name);
    const Matrix& w = held.matrix;
    if (x.shape(1) != w.cols) throw std::invalid_argument("inputs do not fit the matrix");
    if (int8 && !w.has_scales()) throw std::invalid_argument("int8 needs an INT4 or INT8 matrix");
    if (!int8 && w.format == Format::kInt8)
        throw std::invalid_argument("an INT8 matrix needs int8");
    const size_t tokens = x.shape(0);
    float* y = new float[tokens * w.rows];
    auto result = array(y, {tokens, w.rows});
    const FloatMode mode;
    std::vector<uint8_t> quantized;
    Matmul m{};
    m.weights = w.data;
    m.weight_stride = w.row_bytes();
    m.scales = w.scales;
    m.scale_stride = w.scale_row_bytes();
    m.rows = w.rows;
    m.cols = w.cols;
    m.inputs = reinterpret_cast<const uint8_t*>(x.data());
    m.input_stride = w.cols * sizeof(float);
    m.tokens = tokens;
    m.y = y;
    m.y_stride = w.rows;
    if (int8) {
        m.input_stride = quantized_row_bytes(w.cols);
        quantized.resize(tokens * m.input_stride);
        for (size_t t = 0; t < tokens; t++)
            kernels.quantize(x.data() + t * w.cols, w.cols,
                             quantized_row(&quantized[t * m.input_stride], w.cols));
        m.inputs = quantized.data();
        (w.format == Format::kInt4 ? kernels.matmul_int4_int8 : kernels.matmul_int8_int8)(m);
    } else if (w.format == Format::kInt4) {
        kernels.matmul_int4_f32(m);
    } else {
        (w.format == Format::kF32 ? kernels.matmul_f32 : kernels.matmul_bf16)(m);
    }
    return result;
}

nb::ndarray<nb::numpy, float> add_rows(const std::string& name, const HeldMatrix& held,
                                       FloatRows p) {
    const Kernels& kernels = kernels_named(name);
    const Matrix& w = held.matrix;
    if (p.shape(1) != w.rows) throw std::invalid_argument("weights do not fit the rows");
    const size_t tokens = p.shape(0);
    float* y = new float[tokens * w.cols]();
    auto result = array(y, {tokens, w.cols});
    const FloatMode mode;
    WeightedRows a{};
    a.rows = w.data;
    a.row_stride = w.row_bytes();
    a.num_rows = w.rows;
    a.cols = w.cols;
    a.p = p.data();
    a.p_stride = w.rows;
    a.tokens = tokens;
    a.y = y;
    a.y_stride = w.cols;
    (w.format == Format::kF32 ? kernels.add_rows_f32 : kernels.add_rows_bf16)(a);
    return result;
}

// Codes in natural order, scales per group, and the raw row, of which tests compare every byte.
nb::tuple quantize(const std::string& name, Floats x) {
    const size_t cols = x.size();
    if (cols == 0 || cols % kGroup)
        throw std::invalid_argument("a multiple of 32 inputs is needed");
    uint8_t* raw = new uint8_t[quantized_row_bytes(cols)]();
    auto raw_array = array(raw, {quantized_row_bytes(cols)});
    const QuantizedRow row = quantized_row(raw, cols);
    {
        const FloatMode mode;
        kernels_named(name).quantize(x.data(), cols, row);
    }
    int8_t* codes = new int8_t[cols];
    auto codes_array = array(codes, {cols});
    for (size_t i = 0; i < cols; i++) codes[i] = row.codes[code_position(i)];
    float* scales = new float[cols / kGroup];
    auto scales_array = array(scales, {cols / kGroup});
    for (size_t g = 0; g < cols / kGroup; g++) scales[g] = row.scales[g];
    return nb::make_tuple(codes_array, scales_array, raw_array);
}

nb::ndarray<nb::numpy, float> rms_norm(const std::string& name, Floats x, Floats weight,
                                       float eps) {
    if (x.size() != weight.size()) throw std::invalid_argument("weights do not fit the inputs");
    const Kernels& kernels = kernels_named(name);
    float* y = new float[x.size()];
    auto result = array(y, {x.size()});
    const FloatMode mode;
    kernels.rms_norm(x.data(), weight.data(), x.size(), eps, y);
    return result;
}

nb::tuple exp_scores(const std::string& name, Floats scores, float scale) {
    if (scores.size() == 0) throw std::invalid_argument("at least one score is needed");
    const Kernels& kernels = kernels_named(name);
    float* y = new float[scores.size()];
    const auto result = array(y, {scores.size()});
    std::memcpy(y, scores.data(), scores.size() * sizeof(float));
    const FloatMode mode;
    float largest = 0.0f;
    const float sum = kernels.exp_scores(y, scores.size(), scale, &largest);
    return nb::make_tuple(result, largest, sum);
}

nb::ndarray<nb::numpy, float> silu_mul(const std::string& name, Floats gate, Floats up) {
    if (gate.size() != up.size()) throw std::invalid_argument("gate and up differ in size");
    const Kernels& kernels = kernels_named(name);
    float* y = new float[gate.size()];
    auto result = array(y, {gate.size()});
    const FloatMode mode;
    kernels.silu_mul(gate.data(), up.data(), gate.size(), y);
    return result;
}

const PackedAttentionKernels& packed_attention_named(const std::string& name) {
    const PackedAttentionKernels* kernels = find_packed_attention(name.c_str());
    if (!kernels)
        throw std::invalid_argument("attention for training is not written for '" + name +
                                    "' kernels, or not for this CPU");
    return *kernels;
}

// Raises where the shapes do not fit together.
PackedAttention packed_attention(const FloatPlanes& q, const FloatPlanes& kv,
                                 const FloatRows& k_rope, const FloatRows& turns,
                                 const Lengths& lengths, float scale) {
    const size_t tokens = q.shape(0), heads = q.shape(1), rope = k_rope.shape(1);
    size_t in_all = 0;
    for (size_t i = 0; i < lengths.shape(0); i++) {
        if (lengths(i) < 0) throw std::invalid_argument("a length is below 0");
        in_all += static_cast<size_t>(lengths(i));
    }
    if (in_all != tokens || kv.shape(0) != tokens || k_rope.shape(0) != tokens ||
        turns.shape(0) != tokens || kv.shape(1) != heads || turns.shape(1) != rope ||
        rope % 2 != 0 || q.shape(2) <= rope || kv.shape(2) <= q.shape(2) - rope)
        throw std::invalid_argument("queries, keys, turns and lengths do not fit together");
    const size_t nope = q.shape(2) - rope;
    return {heads,    nope,      rope,          kv.shape(2) - nope, scale,
            q.data(), kv.data(), k_rope.data(), turns.data()};
}

nb::tuple attend_packed(const std::string& name, FloatPlanes q, FloatPlanes kv, FloatRows k_rope,
                        FloatRows turns, Lengths lengths, float scale, size_t threads) {
    const PackedAttentionKernels& kernels = packed_attention_named(name);
    const PackedAttention a = packed_attention(q, kv, k_rope, turns, lengths, scale);
    const size_t tokens = q.shape(0);
    float* const out = new float[tokens * a.heads * a.value];
    auto out_array = array(out, {tokens, a.heads, a.value});
    float* const log_sums = new float[tokens * a.heads];
    auto log_sums_array = array(log_sums, {tokens, a.heads});
    float* const largest = new float[a.heads];
    auto largest_array = array(largest, {a.heads});
    {
        nb::gil_scoped_release release;
        packed_attention_forward(kernels, a, {out, log_sums}, lengths.data(),
                                 lengths.shape(0), threads, largest);
    }
    return nb::make_tuple(out_array, log_sums_array, largest_array);
}

nb::tuple attend_packed_back(const std::string& name, FloatPlanes q, FloatPlanes kv,
                             FloatRows k_rope, FloatRows turns, Lengths lengths, float scale,
                             FloatPlanes d_out, FloatPlanes out, FloatRows log_sums,
                             size_t threads) {
    const PackedAttentionKernels& kernels = packed_attention_named(name);
    const PackedAttention a = packed_attention(q, kv, k_rope, turns, lengths, scale);
    const size_t tokens = q.shape(0);
    for (const FloatPlanes* x : {&d_out, &out})
        if (x->shape(0) != tokens || x->shape(1) != a.heads || x->shape(2) != a.value)
            throw std::invalid_argument("the gradients do not have the output's shape");
    if (log_sums.shape(0) != tokens || log_sums.shape(1) != a.heads)
        throw std::invalid_argument("the logarithms of the sums have another shape");
    const size_t rows = tokens * a.heads;
    float* const d_q = new float[rows * a.query_width()];
    auto d_q_array = array(d_q, {tokens, a.heads, a.query_width()});
    float* const d_kv = new float[rows * a.kv_width()];
    auto d_kv_array = array(d_kv, {tokens, a.heads, a.kv_width()});
    float* const d_k_rope = new float[rows * a.rope];
    auto d_k_rope_array = array(d_k_rope, {tokens, a.heads, a.rope});
    {
        nb::gil_scoped_release release;
        packed_attention_backward(
            kernels, a, {d_out.data(), out.data(), log_sums.data(), d_q, d_kv, d_k_rope},
            lengths.data(), lengths.shape(0), threads);
    }
    return nb::make_tuple(d_q_array, d_kv_array, d_k_rope_array);
}

template <void (*Kernels::*function)(const float*, size_t, float*)>
nb::ndarray<nb::numpy, float> elementwise(const std::string& name, Floats x) {
    const Kernels& kernels = kernels_named(name);
    float* y = new float[x.size()];
    auto result = array(y, {x.size()});
    const FloatMode mode;
    (kernels.*function)(x.data(), x.size(), y);
    return result;
}

std::vector<std::string> available_kernels() {
    std::vector<std::string> names;
    for (const InstructionSet& set : instruction_sets())
        if (set.runs_here()) names.push_back(set.name);
    return names;
}

}  // namespace

NB_MODULE(_native, m) {
    m.doc() = "The native INT4 engine. Use it through baltoro.kernels.";
    m.def("available_kernels", &available_kernels, "Kernel sets that run here, fastest first.");

    nb::class_<Config>(m, "Config")
        .def(nb::init<>())
        .def_rw("vocab_size", &Config::vocab_size)
        .def_rw("hidden_size", &Config::hidden_size)
        .def_rw("num_attention_heads", &Config::num_attention_heads)
        .def_rw("kv_lora_rank", &Config::kv_lora_rank)
        .def_rw("qk_nope_head_dim", &Config::qk_nope_head_dim)
        .def_rw("qk_rope_head_dim", &Config::qk_rope_head_dim)
        .def_rw("v_head_dim", &Config::v_head_dim)
        .def_rw("num_experts_per_tok", &Config::num_experts_per_tok)
        .def_rw("n_group", &Config::n_group)
        .def_rw("topk_group", &Config::topk_group)
        .def_rw("norm_topk_prob", &Config::norm_topk_prob)
        .def_rw("routed_scaling_factor", &Config::routed_scaling_factor)
        .def_rw("rms_norm_eps", &Config::rms_norm_eps)
        .def_rw("softmax_scale", &Config::softmax_scale)
        .def_rw("rotary_multiplier", &Config::rotary_multiplier)
        .def_rw("rotary_frequencies", &Config::rotary_frequencies)
        .def_rw("int8_activations", &Config::int8_activations)
        .def_rw("num_blocks", &Config::num_blocks)
        .def_rw("block_tokens", &Config::block_tokens)
        .def_rw("threads", &Config::threads)
        .def_rw("cores", &Config::cores);

    nb::class_<HeldMatrix>(m, "Matrix")
        .def(nb::init<const std::string&, size_t, size_t, Bytes, std::optional<Bytes>>(),
             "format"_a, "rows"_a, "cols"_a, "data"_a, "scales"_a = nb::none())
        .def_prop_ro("shape", [](const HeldMatrix& held) {
            return nb::make_tuple(held.matrix.rows, held.matrix.cols);
        })
        .def("dequantized", &dequantized, "An INT8 matrix as f32, for tests.");

    nb::class_<Layer>(m, "Layer")
        .def(nb::init<>())
        .def_rw("input_layernorm", &Layer::input_layernorm)
        .def_rw("post_attention_layernorm", &Layer::post_attention_layernorm)
        .def("set_attention", &set_attention, "q_a_proj"_a.none(), "q_a_layernorm"_a, "q_proj"_a,
             "kv_a_proj_with_mqa"_a, "kv_a_layernorm"_a, "kv_b_proj"_a, "o_proj"_a,
             "k_absorb"_a.none() = nb::none(), "v_expand"_a.none() = nb::none())
        .def("set_mlp", [](Layer& layer, const HeldMlp& held) { layer.mlp = to_mlp(held); })
        .def("set_router", &set_router, "gate"_a, "bias"_a, "experts"_a);

    nb::class_<Model>(m, "Model")
        .def("__init__",
             [](Model* self, const Config& config, const std::string& kernels,
                const HeldMatrix& embed_tokens, const std::vector<Layer*>& layers, Vector norm,
                const HeldMatrix& lm_head) {
                 Weights weights;
                 weights.embed_tokens = embed_tokens.matrix;
                 for (const Layer* layer : layers) weights.layers.push_back(*layer);
                 weights.norm = std::move(norm);
                 weights.lm_head = lm_head.matrix;
                 new (self) Model(config, std::move(weights), kernels_named(kernels));
             },
             "config"_a, "kernels"_a, "embed_tokens"_a, "layers"_a, "norm"_a, "lm_head"_a)
        .def_prop_ro("kernels", [](const Model& model) { return model.kernels().name; })
        .def("step", &step, "tokens"_a.noconvert(), "positions"_a.noconvert(),
             "sequence_of_token"_a.noconvert(), "block_tables"_a.noconvert(),
             "logit_rows"_a.noconvert(), "expert_choices"_a.noconvert().none() = nb::none())
        .def("run_mlp", &run_mlp, "layer"_a, "x"_a.noconvert())
        .def("stream_experts", &stream_experts, "files"_a, "arena_bytes"_a, "io_threads"_a)
        .def("stream_counts", &stream_counts, "Hits, misses, bytes read, seconds waited.")
        .def("stream_slots", [](Model& model) { return store_of(model).slots(); })
        .def("expert_uses", [](Model& model) { return store_of(model).uses(); })
        .def("pin_experts",
             [](Model& model, const std::vector<size_t>& experts) {
                 nb::gil_scoped_release release;
                 store_of(model).pin(experts);
             },
             "experts"_a)
        .def("read_block", &read_block, "block"_a)
        .def("write_block", &write_block, "block"_a, "data"_a);

    m.def("interleave_memory", &interleave_memory, "nodes"_a);

    nb::class_<ReadProbe>(m, "ReadProbe")
        .def(nb::init<size_t, size_t>(), "bytes"_a, "threads"_a)
        .def("seconds", &ReadProbe::seconds, "ahead"_a = 0,
             nb::call_guard<nb::gil_scoped_release>());

    nb::class_<HeldDrawRow>(m, "DrawRow")
        .def("__init__", &make_draw_row, "temperature"_a, "top_p"_a, "top_k"_a, "min_p"_a,
             "top_logprobs"_a, "seed"_a, "position"_a, "forced"_a.none() = nb::none(),
             "mask"_a.none() = nb::none(), "changed"_a.none() = nb::none(),
             "changed_scores"_a.none() = nb::none());
    m.def("draw", &draw_rows, "kernels"_a, "logits"_a.noconvert(), "rows"_a);
    m.def("uniform", &uniform, "seed"_a, "position"_a);

    m.def("has_packed_attention",
          [](const std::string& name) { return find_packed_attention(name.c_str()) != nullptr; },
          "kernels"_a);
    m.def("attend_packed", &attend_packed, "kernels"_a, "q"_a.noconvert(), "kv"_a.noconvert(),
          "k_rope"_a.noconvert(), "turns"_a.noconvert(), "lengths"_a.noconvert(), "scale"_a,
          "threads"_a);
    m.def("attend_packed_back", &attend_packed_back, "kernels"_a, "q"_a.noconvert(),
          "kv"_a.noconvert(), "k_rope"_a.noconvert(), "turns"_a.noconvert(),
          "lengths"_a.noconvert(), "scale"_a, "d_out"_a.noconvert(), "out"_a.noconvert(),
          "log_sums"_a.noconvert(), "threads"_a);

    m.def("int8_copy", &int8_copy, "matrix"_a, "threads"_a = 1);
    m.def("int8_kv_copies", &int8_kv_copies, "kv_b_proj"_a, "nope"_a, "value"_a, "threads"_a = 1);
    m.def("matmul", &matmul, "kernels"_a, "matrix"_a, "x"_a, "int8"_a = false);
    m.def("add_rows", &add_rows, "kernels"_a, "matrix"_a, "p"_a);
    m.def("quantize", &quantize, "kernels"_a, "x"_a);
    m.def("rms_norm", &rms_norm, "kernels"_a, "x"_a, "weight"_a, "eps"_a);
    m.def("exp_scores", &exp_scores, "kernels"_a, "scores"_a, "scale"_a);
    m.def("silu_mul", &silu_mul, "kernels"_a, "gate"_a, "up"_a);
    m.def("exp", &elementwise<&Kernels::exp>, "kernels"_a, "x"_a);
    m.def("sigmoid", &elementwise<&Kernels::sigmoid>, "kernels"_a, "x"_a);
}

}  // namespace baltoro
