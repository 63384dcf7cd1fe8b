// One pass over gradient, parameter and moments of all tensors: the raw rows of raw.py, each value read once.
//
// What is computed of an element and added up is in quantities.py and elements.py; cpp_macros.py defines the names in capitals.
//
// Plain C++17, no headers of torch's; built without -ffast-math: that would drop NaN, and (GCC before 13) switch off
// denormals for the whole process. Sums run in float over 1,024 elements and in double beyond; a block whose float sum
// overflows or comes near underflow is summed again in double. Maxima leave NaN out: finalise() takes it from the sums.

#include <algorithm>
#include <atomic>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <thread>
#include <type_traits>
#include <vector>

namespace {

constexpr int64_t BLOCK = 1024;    // elements that are summed in float
constexpr int64_t CHUNK = 131072;  // elements of one work unit
constexpr int BINS = 80;
enum Part { PARAMETERS, GRADIENTS, FIRSTS, SECONDS, DENOMINATORS, BEFORE, PARTS };  // θ, g, m, v, what v̂ is rooted of, old θ
enum Kind : int64_t { MISSING, FLOAT, BFLOAT, CODES };

// What a part is unpacked with: element i of CODES is table[codes[i]] * scales[i / block].
struct Packing {
    const float *scales, *table;
    int64_t block;
};

struct Tensor {  // as TASK in kernel.py
    const void* places[PARTS];
    int64_t kinds[PARTS];
    Packing packings[PARTS];
    int64_t numel, offset, slot, stride, slots;
    double first_scale, second_scale, eps, lr;
    double share, stretch;  // Decay.step() in steps.py
};

// A block of a tensor in 32 bits; what is missing is ones, whose sums kernel.py leaves out.
struct Block {
    const float* parts[PARTS];
    float converted[PARTS][BLOCK];

    void look_at(const Tensor& t, int64_t start, int64_t count) {
        for (int part = 0; part < PARTS; part++) {
            const bool is_second = part == DENOMINATORS && t.places[part] == t.places[SECONDS];
            parts[part] = is_second ? parts[SECONDS] : converted_to_float(part, t, start, count);
        }
    }

   private:
    const float* converted_to_float(int part, const Tensor& t, int64_t start, int64_t count) {
        switch (t.kinds[part]) {
            case FLOAT: return static_cast<const float*>(t.places[part]) + start;
            case BFLOAT: return widened(part, t, start, count);
            case CODES: return decoded(part, t, start, count);
            default: return ones(part);
        }
    }

    const float* widened(int part, const Tensor& t, int64_t start, int64_t count) {
        const uint16_t* from = static_cast<const uint16_t*>(t.places[part]) + start;
        float* to = converted[part];
#pragma omp simd
        for (int64_t i = 0; i < count; i++) {
            const uint32_t bits = uint32_t(from[i]) << 16;
            std::memcpy(&to[i], &bits, 4);
        }
        return to;
    }

    const float* decoded(int part, const Tensor& t, int64_t start, int64_t count) {
        const Packing& packing = t.packings[part];
        const uint8_t* codes = static_cast<const uint8_t*>(t.places[part]) + start;
        float* to = converted[part];
        for (int64_t i = 0, stop; i < count; i = stop) {
            const int64_t block = (start + i) / packing.block;
            const float scale = packing.scales[block];
            stop = std::min(count, (block + 1) * packing.block - start);
            for (int64_t j = i; j < stop; j++) to[j] = packing.table[codes[j]] * scale;
        }
        return to;
    }

    const float* ones(int part) {
        std::fill_n(converted[part], BLOCK, 1.0f);
        return converted[part];
    }
};

struct Counts {
    uint32_t of[BINS + 1];  // the last one counts NaN
};

class Bins {  // log10 bins, by the float's exponent and three bits of mantissa: at most one edge falls into such a cell
   public:
    explicit Bins(const double* log10_edges) {
        float edges[BINS + 1];
        for (int i = 0; i < BINS; i++) edges[i] = static_cast<float>(std::pow(10.0, log10_edges[i]));
        edges[BINS] = INFINITY;
        int bin = 0;
        for (uint32_t cell = 0; cell < CELLS; cell++) {
            const uint32_t bits = cell << 20;
            float low;
            std::memcpy(&low, &bits, 4);
            while (bin < BINS - 1 && low >= edges[bin + 1]) bin++;
            first_[cell] = cell < 0x7f8 ? bin : BINS;
            next_[cell] = edges[bin + 1];
        }
    }

    // Values that are not negative.
    void count(const float* values, int64_t n, Counts& counts) const {
        constexpr int LANES = 4;  // neighbours fall into one bin: with one counter each would wait for the last
        Counts lanes[LANES] = {};
        int64_t i = 0;
        for (; i + LANES <= n; i += LANES)
            for (int lane = 0; lane < LANES; lane++) lanes[lane].of[bin_of(values[i + lane])]++;
        for (; i < n; i++) lanes[0].of[bin_of(values[i])]++;
        for (const Counts& lane : lanes)
            for (int bin = 0; bin < BINS; bin++) counts.of[bin] += lane.of[bin];
    }

   private:
    static constexpr uint32_t CELLS = 2048;
    int32_t first_[CELLS];
    float next_[CELLS];

    int bin_of(float value) const {
        value = FLT_MAX < value ? FLT_MAX : value;  // infinity shares its cell with NaN
        uint32_t bits;
        std::memcpy(&bits, &value, 4);
        const uint32_t cell = bits >> 20 & (CELLS - 1);
        return first_[cell] + (value >= next_[cell]);
    }
};

struct Partial {
    double sums[SUMS];
    float maxima[MAXIMA];
    Counts steps, rates;
};

// The functions of elements.py.
using std::abs, std::sqrt;
inline float where(bool holds, float one, float other) { return holds ? one : other; }
inline float reciprocal(float value) { return 1 / value; }
inline float at_least(float least, float value) { return least > value ? least : value; }

// Whether a sum in float has neither overflowed nor, in so small a one, lost terms.
inline bool in_range(double sum) { return sum < 3e38 && sum > 1e-28; }

// Adds to a chunk's sums and maxima; where float does not hold a sum, nothing: then it is to be done again with EXACT, which
// sums up in double. Where the step is MEASURED, it goes into `steps`.
template <bool EXACT, bool AMSGRAD, bool MEASURED>
bool add_block(const Tensor& t, const Block& block, int64_t count, float* steps, Partial& partial) {
    using Wide = std::conditional_t<EXACT, double, float>;
    const float *ps = block.parts[PARAMETERS], *gs = block.parts[GRADIENTS], *ms = block.parts[FIRSTS], *vs = block.parts[SECONDS],
                *ds = block.parts[DENOMINATORS], *befores = block.parts[BEFORE], *wants = t.kinds[FIRSTS] ? ms : gs;
    const float first_scale = float(t.first_scale), second_scale = float(t.second_scale), eps = float(t.eps);
    const float floor = std::max(eps, FLT_MIN), share = float(t.share), stretch = float(t.stretch);
    BEGIN_SUMS BEGIN_MAXIMA
#pragma omp simd reduction(+ : SUM_NAMES) reduction(max : MAXIMUM_NAMES)
    for (int64_t i = 0; i < count; i++) {
        const float p = ps[i], g = gs[i], m = ms[i], v = vs[i], d = AMSGRAD ? ds[i] : v;
        const float before = MEASURED ? befores[i] : p, wanted = MEASURED ? wants[i] : g;
        VALUES
        ADD_ELEMENT
        if (MEASURED) steps[i] = step;
    }
    if (!EXACT && !(SUMS_HELD)) return false;
    const double sums[] = {SUMS_IN_DOUBLE};
    const float maxima[] = {MAXIMUM_NAMES};
    for (int i = 0; i < SUMS; i++) partial.sums[i] += sums[i];
    for (int i = 0; i < MAXIMA; i++) partial.maxima[i] = std::max(partial.maxima[i], maxima[i]);
    return true;
}

// Cells of `stride` elements give one sampled element each, at a place that the golden-ratio sequence says
// (Sampling.positions in raw.py).
inline int64_t place(const Tensor& t, int64_t cell) {
    return cell * t.stride + int64_t(uint64_t(uint32_t(cell) * 2654435761u) * uint64_t(t.stride) >> 32);
}

int64_t first_cell(const Tensor& t, int64_t start) {
    const int64_t cell = (start + t.offset) / t.stride;
    return cell + (place(t, cell) < start + t.offset);
}

// Raw moments (or measured steps) of the sampled elements from `cell` on, while their block is in the cache; returns the next
// block's first cell.
int64_t gather_block(const Tensor& t, const Block& block, const float* moves, int64_t start, int64_t cell, int64_t end,
                     float* sample, float* steps) {
    for (int64_t at; cell < t.slots && (at = place(t, cell) - t.offset) < end; cell++) {
        *steps++ = moves[at - start];
        sample[t.slot + cell] = block.parts[DENOMINATORS][at - start];
    }
    return cell;
}

// From the raw moments to effective learning rates and step sizes, and their histograms.
void finish_sample(const Tensor& t, int64_t count, const Bins& bins, float* rates, float* steps, Partial& partial) {
    const float first_scale = float(t.first_scale), second_scale = float(t.second_scale), eps = float(t.eps);
    const float lr = t.kinds[SECONDS] ? float(t.lr) : NAN;
    const bool measured = t.kinds[BEFORE], known = measured || t.kinds[FIRSTS];
#pragma omp simd
    for (int64_t i = 0; i < count; i++) {
        const float m = steps[i], d = rates[i];
        SAMPLE_VALUES
        rates[i] = inverse * lr;
        steps[i] = measured ? m : known ? ratio * lr : NAN;
    }
    bins.count(rates, count, partial.rates);
    bins.count(steps, count, partial.steps);
}

template <bool AMSGRAD, bool MEASURED>
void add_chunk(const Tensor& t, int64_t start, int64_t end, const Bins& bins, float* sample, Partial& partial) {
    const int64_t first_sampled = first_cell(t, start);
    int64_t cell = first_sampled;
    std::vector<float> steps(static_cast<size_t>((end - start) / t.stride + 2));
    Block block;
    float measured[BLOCK];
    for (int64_t at = start; at < end; at += BLOCK) {
        const int64_t stop = at + BLOCK < end ? at + BLOCK : end;
        block.look_at(t, at, stop - at);
        if (!add_block<false, AMSGRAD, MEASURED>(t, block, stop - at, measured, partial))
            add_block<true, AMSGRAD, MEASURED>(t, block, stop - at, measured, partial);
        const float* moves = MEASURED ? measured : block.parts[FIRSTS];
        cell = gather_block(t, block, moves, at, cell, stop, sample, steps.data() + (cell - first_sampled));
    }
    finish_sample(t, cell - first_sampled, bins, sample + t.slot + first_sampled, steps.data(), partial);
}

decltype(&add_chunk<false, false>) chunk_adder(const Tensor& t) {
    if (t.places[DENOMINATORS] == t.places[SECONDS]) return t.kinds[BEFORE] ? add_chunk<false, true> : add_chunk<false, false>;
    return t.kinds[BEFORE] ? add_chunk<true, true> : add_chunk<true, false>;
}

// `elements`: what there is to do in all; a thread is started for half a million, which take longer than its start.
template <class Work>
void in_parallel(int threads, int64_t elements, int64_t units, const Work& work) {
    threads = static_cast<int>(std::min<int64_t>(threads, 1 + elements / 500000));
    std::atomic<int64_t> next(0);
    auto run = [&] {
        for (int64_t unit; (unit = next.fetch_add(1)) < units;) work(unit);
    };
    std::vector<std::thread> helpers;
    try {
        for (int i = 1; i < threads && i < units; i++) helpers.emplace_back(run);
    } catch (...) {  // no more threads to be had: those that run do the work
    }
    run();
    for (auto& helper : helpers) helper.join();
}

// Order statistics without sorting: count the values in 256 cells between the smallest and the largest, then select
// among the few that share a cell with a wanted rank. Linear interpolation between ranks, as numpy.quantile; NaN where a
// value is.
class Selection {
   public:
    Selection(const float* sample, int64_t count) : values_(sample), cells_(count), below_(CELLS + 1), missing_(count == 0) {
        uint32_t low = UINT32_MAX, high = 0;
#pragma omp simd reduction(min : low) reduction(max : high)
        for (int64_t i = 0; i < count; i++) {
            const uint32_t key = ordered(sample[i]);
            low = key < low ? key : low;
            high = key > high ? key : high;
        }
        missing_ |= high > ordered(INFINITY) || low < ordered(-INFINITY);
        int shift = 0;
        while (count > 0 && (high - low) >> shift >= CELLS) shift++;
#pragma omp simd
        for (int64_t i = 0; i < count; i++) cells_[i] = static_cast<uint8_t>((ordered(sample[i]) - low) >> shift);
        constexpr int LANES = 4;
        uint32_t lanes[LANES][CELLS] = {};
        for (int64_t i = 0; i < count; i++) lanes[i % LANES][cells_[i]]++;
        for (int cell = 0; cell < CELLS; cell++)
            below_[cell + 1] = below_[cell] + lanes[0][cell] + lanes[1][cell] + lanes[2][cell] + lanes[3][cell];
    }

    void quantiles(const double* levels, int n, double* out) {  // ascending levels
        if (missing_) return (void)std::fill_n(out, n, NAN);
        const int64_t last = static_cast<int64_t>(cells_.size()) - 1;
        std::vector<Rank> ranks;
        for (int i = 0, cell = 0; i < n; i++) {
            const int64_t rank = static_cast<int64_t>(levels[i] * double(last));
            for (int64_t neighbour : {rank, std::min(rank + 1, last)}) {
                while (below_[cell + 1] <= neighbour) cell++;
                ranks.push_back({neighbour, cell});
            }
            cell = ranks[2 * i].cell;
        }
        gather(ranks);
        for (int i = 0; i < n; i++) {
            const double low = at(ranks[2 * i]), high = at(ranks[2 * i + 1]);
            out[i] = low == high ? low : low + (high - low) * (levels[i] * double(last) - double(ranks[2 * i].rank));
        }
    }

   private:
    static constexpr int CELLS = 256;
    struct Rank {
        int64_t rank;
        int cell;
    };
    const float* values_;
    std::vector<uint8_t> cells_;
    std::vector<int64_t> below_;  // values in the cells below
    std::vector<float> members_;  // values in the wanted cells
    int64_t begins_[CELLS];       // members in the wanted cells below
    bool missing_;

    static uint32_t ordered(float value) {  // an integer in the order of the values
        uint32_t bits;
        std::memcpy(&bits, &value, 4);
        return bits >> 31 ? ~bits : bits | 0x80000000u;
    }

    float at(Rank of) {
        const auto spot = members_.begin() + (begins_[of.cell] + of.rank - below_[of.cell]);
        std::nth_element(members_.begin(), spot, members_.end());
        return *spot;
    }

    void gather(const std::vector<Rank>& ranks) {
        uint8_t wanted[CELLS] = {};
        for (const Rank& rank : ranks) wanted[rank.cell] = 1;
        int64_t total = 0;
        for (int cell = 0; cell < CELLS; cell++) {
            begins_[cell] = total;
            total += wanted[cell] * (below_[cell + 1] - below_[cell]);
        }
        members_.resize(total + 1);
        int64_t found = 0;
        for (size_t i = 0; i < cells_.size(); i++) {  // without a branch that would be guessed wrong
            members_[found] = values_[i];
            found += wanted[cells_[i]];
        }
        members_.resize(total);
    }
};

}  // namespace

extern "C" int lightning_adam_reduce(const Tensor* tensors, int64_t n_tensors, const double* log10_edges, int threads,
                                     double* sums, double* maxima, int32_t* counts, float* sample) try {
    const Bins bins(log10_edges);
    std::vector<int64_t> begins(1, 0);
    std::vector<int32_t> owners;
    int64_t elements = 0;
    for (int64_t i = 0; i < n_tensors; i++) {
        const int64_t chunks = (tensors[i].numel + CHUNK - 1) / CHUNK;
        begins.push_back(begins.back() + chunks);
        elements += tensors[i].numel;
        owners.insert(owners.end(), chunks, static_cast<int32_t>(i));
    }
    std::vector<Partial> partials(owners.size());
    in_parallel(threads, elements, static_cast<int64_t>(owners.size()), [&](int64_t unit) {
        const Tensor& t = tensors[owners[unit]];
        const int64_t start = (unit - begins[owners[unit]]) * CHUNK;
        const int64_t end = start + CHUNK < t.numel ? start + CHUNK : t.numel;
        Partial& partial = partials[unit];
        for (float& maximum : partial.maxima) maximum = -INFINITY;
        chunk_adder(t)(t, start, end, bins, sample, partial);
    });
    for (size_t unit = 0; unit < owners.size(); unit++) {
        const Partial& partial = partials[unit];
        double *row = sums + owners[unit] * SUMS, *top = maxima + owners[unit] * MAXIMA;
        int32_t* counted = counts + owners[unit] * 2 * BINS;
        for (int i = 0; i < SUMS; i++) row[i] += partial.sums[i];
        for (int i = 0; i < BINS; i++) counted[i] += partial.steps.of[i];
        for (int i = 0; i < BINS; i++) counted[BINS + i] += partial.rates.of[i];
        for (int i = 0; i < MAXIMA; i++) top[i] = partial.maxima[i] > top[i] ? partial.maxima[i] : top[i];
    }
    return 0;
} catch (...) {
    return 1;
}

extern "C" int lightning_adam_quantiles(const float* sample, const int64_t* begins, int64_t n_tensors, const double* at, int n_at,
                                        int threads, double* out) try {
    in_parallel(threads, begins[n_tensors] - begins[0], n_tensors, [&](int64_t i) {
        Selection selection(sample + begins[i], begins[i + 1] - begins[i]);
        selection.quantiles(at, n_at, out + i * n_at);
    });
    return 0;
} catch (...) {
    return 1;
}
