// One pass over gradient, parameter and moments of all tensors: the raw rows of raw.py, each value read once.
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
enum Sum { GRADIENT, ZERO_GRADIENT, PARAMETER, FIRST, SECOND, ALIVE, RATIO, RATIO_SQUARED, SWAMPED, SURPRISE, SUMS, STEP = SUMS, LOST, ALL_SUMS };
enum Maximum { FIRST_MAX, SECOND_MAX, SECOND_MIN, RATIO_MAX, MAXIMA, STEP_MAX = MAXIMA, ALL_MAXIMA };
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
    double first_scale, second_scale, eps, lr, weight;  // weight: elements that a sampled one stands for
    double share, stretch;                              // Decay.step() in steps.py
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
    double sums[ALL_SUMS];
    float maxima[ALL_MAXIMA];
    Counts steps, rates;
};

// Of the values that a block divides by, as far as v tells: 1/(ab) keeps its digits while ab is far from over- and underflow.
struct Range {
    float low, high;

    bool fits(const Range& denominator, float scale, float eps, float floor) const {
        const float smallest = (std::sqrt(denominator.low * scale) + eps) * std::max(std::sqrt(low * scale), floor);
        const float largest = (std::sqrt(denominator.high * scale) + eps) * std::max(std::sqrt(high * scale), floor);
        return smallest > 1e-30f && largest < 1e30f;
    }
};

bool keeps_range(const double* sums) {
    for (int i : {GRADIENT, PARAMETER, FIRST, SECOND, RATIO, RATIO_SQUARED, SURPRISE})
        if (!(sums[i] < 3e38 && sums[i] > 1e-28)) return false;
    return true;
}

// One division for the two of 1/(√v̂+ε) and 1/max(√v̂,ε), as 1/(ab). EXACT divides twice and sums up in double.
template <bool EXACT, bool AMSGRAD>
inline bool add_block(const Tensor& t, const Block& block, int64_t count, double* sums, float* maxima) {
    using Accumulator = std::conditional_t<EXACT, double, float>;
    const float *parameter = block.parts[PARAMETERS], *gradient = block.parts[GRADIENTS], *first = block.parts[FIRSTS],
                *second = block.parts[SECONDS], *largest = block.parts[DENOMINATORS];
    const float first_scale = float(t.first_scale), second_scale = float(t.second_scale), eps = float(t.eps);
    const float floor = eps > FLT_MIN ? eps : FLT_MIN;
    Accumulator g2 = 0, p2 = 0, m2 = 0, vs = 0, us = 0, u2 = 0, swamped = 0, surprise = 0;
    int32_t zero = 0, alive = 0;
    float m_max = maxima[FIRST_MAX], u_max = maxima[RATIO_MAX];
    float v_low = INFINITY, v_high = -INFINITY, d_low = INFINITY, d_high = -INFINITY;
#pragma omp simd reduction(+ : g2, p2, m2, vs, us, u2, swamped, surprise, zero, alive) \
    reduction(max : m_max, u_max, v_high, d_high) reduction(min : v_low, d_low)
    for (int64_t i = 0; i < count; i++) {
        const float p = parameter[i], g = gradient[i], m = std::fabs(first[i]), v = second[i];
        const float d = AMSGRAD ? largest[i] : v;
        const float root = std::sqrt(v * second_scale);
        const float below = (AMSGRAD ? std::sqrt(d * second_scale) : root) + eps;
        const float floored = floor > root ? floor : root;
        const float shared = 1.0f / (below * floored);
        const float inverse = EXACT ? 1.0f / below : shared * floored;
        const float u = m * first_scale * inverse;
        const float r = EXACT ? g / floored : g * (shared * below);
        g2 += Accumulator(g) * g;
        p2 += Accumulator(p) * p;
        m2 += Accumulator(m) * m;
        vs += v;
        us += u;
        u2 += Accumulator(u) * u;
        swamped += v != 0 ? inverse : 0.0f;
        surprise += Accumulator(r) * r;
        zero += g == 0;
        alive += v != 0;
        m_max = m > m_max ? m : m_max;
        u_max = u > u_max ? u : u_max;
        v_high = v > v_high ? v : v_high;
        v_low = v < v_low ? v : v_low;
        if (AMSGRAD) {
            d_high = d > d_high ? d : d_high;
            d_low = d < d_low ? d : d_low;
        }
    }
    const double added[SUMS] = {double(g2),    double(zero), double(p2), double(m2),           double(vs),
                                double(alive), double(us),   double(u2), eps * double(swamped), double(surprise)};
    std::memcpy(sums, added, sizeof added);
    const Range v{v_low, v_high}, d = AMSGRAD ? Range{d_low, d_high} : v;
    if (!EXACT && !(keeps_range(sums) && v.fits(d, second_scale, eps, floor))) return false;
    maxima[FIRST_MAX] = m_max, maxima[RATIO_MAX] = u_max;
    maxima[SECOND_MAX] = std::max(maxima[SECOND_MAX], v_high), maxima[SECOND_MIN] = std::max(maxima[SECOND_MIN], -v_low);
    return true;
}

// What a step was, from the weights before and after it, and how many elements it should have moved and did not.
void add_steps(const Tensor& t, const Block& block, int64_t count, float* steps, Partial& partial) {
    const float *now = block.parts[PARAMETERS], *before = block.parts[BEFORE];
    const float* wanted = block.parts[t.kinds[FIRSTS] ? FIRSTS : GRADIENTS];
    const float share = float(t.share), stretch = float(t.stretch);
    double squared = 0;
    float largest = partial.maxima[STEP_MAX];
    int32_t lost = 0;
#pragma omp simd reduction(+ : squared, lost) reduction(max : largest)
    for (int64_t i = 0; i < count; i++) {
        const float size = std::fabs((now[i] - before[i]) + share * before[i]) * stretch;
        steps[i] = size;
        squared += double(size) * size;
        largest = size > largest ? size : largest;
        lost += (now[i] == before[i]) & (wanted[i] != 0);
    }
    partial.sums[STEP] += squared, partial.sums[LOST] += lost, partial.maxima[STEP_MAX] = largest;
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
        rates[i] = lr / (std::sqrt(rates[i] * second_scale) + eps);
        steps[i] = std::fabs(steps[i]) * (measured ? 1.0f : known ? first_scale * rates[i] : NAN);
    }
    bins.count(rates, count, partial.rates);
    bins.count(steps, count, partial.steps);
}

template <bool AMSGRAD>
void add_chunk(const Tensor& t, int64_t start, int64_t end, const Bins& bins, float* sample, Partial& partial) {
    const int64_t first_sampled = first_cell(t, start);
    int64_t cell = first_sampled;
    std::vector<float> steps(static_cast<size_t>((end - start) / t.stride + 2));
    Block block;
    float measured[BLOCK];
    const bool measures = t.kinds[BEFORE] != MISSING;
    for (int64_t at = start; at < end; at += BLOCK) {
        const int64_t stop = at + BLOCK < end ? at + BLOCK : end;
        double sums[SUMS];
        block.look_at(t, at, stop - at);
        if (!add_block<false, AMSGRAD>(t, block, stop - at, sums, partial.maxima))
            add_block<true, AMSGRAD>(t, block, stop - at, sums, partial.maxima);
        for (int i = 0; i < SUMS; i++) partial.sums[i] += sums[i];
        if (measures) add_steps(t, block, stop - at, measured, partial);
        const float* moves = measures ? measured : block.parts[FIRSTS];
        cell = gather_block(t, block, moves, at, cell, stop, sample, steps.data() + (cell - first_sampled));
    }
    finish_sample(t, cell - first_sampled, bins, sample + t.slot + first_sampled, steps.data(), partial);
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
                                     double* sums, double* maxima, double* counts, float* sample) try {
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
        (t.places[DENOMINATORS] == t.places[SECONDS] ? add_chunk<false> : add_chunk<true>)(t, start, end, bins, sample, partial);
    });
    for (size_t unit = 0; unit < owners.size(); unit++) {
        const Partial& partial = partials[unit];
        double *row = sums + owners[unit] * ALL_SUMS, *top = maxima + owners[unit] * ALL_MAXIMA;
        const double weight = tensors[owners[unit]].weight;
        for (int i = 0; i < ALL_SUMS; i++) row[i] += partial.sums[i];
        for (int i = 0; i < BINS; i++) counts[i] += weight * partial.steps.of[i];
        for (int i = 0; i < BINS; i++) counts[BINS + i] += weight * partial.rates.of[i];
        for (int i = 0; i < ALL_MAXIMA; i++) top[i] = partial.maxima[i] > top[i] ? partial.maxima[i] : top[i];
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
