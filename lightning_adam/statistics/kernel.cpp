// One pass over gradient, parameter and moments of all tensors: the raw rows of raw.py, each value read once.
//
// Plain C++11, no headers of torch's; built without -ffast-math: that would drop NaN, and (GCC before 13) switch off
// denormals for the whole process. Sums run in float over 1,024 elements and in double beyond; a block whose float sum
// overflows or comes near underflow is summed again in double. Maxima leave NaN out: finalise() takes it from the sums.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

namespace {

constexpr int64_t BLOCK = 1024;   // elements that are summed in float
constexpr int64_t CHUNK = 16384;  // elements of one work unit: four arrays of it fit into a core's L2 cache
constexpr int BINS = 56;
enum Sum { GRADIENT, ZERO_GRADIENT, PARAMETER, FIRST, SECOND, ALIVE, RATIO, RATIO_SQUARED, SWAMPED, SURPRISE, SUMS };
enum Maximum { FIRST_MAX, SECOND_MAX, SECOND_MIN, RATIO_MAX, MAXIMA };

struct Tensor {  // as TASK in native.py
    const float *parameter, *gradient, *first, *second, *denominator;
    int64_t numel, offset, slot, stride, slots;
    float first_scale, second_scale, eps, lr;
};

struct Partial {
    double sums[SUMS];
    float maxima[MAXIMA];
    uint32_t step_counts[BINS], rate_counts[BINS];
};

struct Bins {  // log10 bins by the float's exponent and three bits of mantissa; at most one edge falls into such a cell
    float edges[BINS + 1];
    uint8_t first[2048];

    explicit Bins(const double* log10_edges) {
        for (int i = 0; i <= BINS; i++) edges[i] = static_cast<float>(std::pow(10.0, log10_edges[i]));
        edges[0] = 0.0f;
        edges[BINS] = INFINITY;
        int bin = 0;
        for (uint32_t cell = 0; cell < 2048; cell++) {
            const uint32_t bits = cell << 20;
            float low;
            std::memcpy(&low, &bits, 4);
            while (bin < BINS - 1 && low >= edges[bin + 1]) bin++;
            first[cell] = static_cast<uint8_t>(bin);
        }
    }

    void count(float value, uint32_t* counts) const {
        if (std::isnan(value)) return;
        uint32_t bits;
        std::memcpy(&bits, &value, 4);
        const int bin = first[bits >> 20 & 2047];
        counts[bin + (bin < BINS - 1 && value >= edges[bin + 1])]++;
    }
};

template <class Accumulator, bool AMSGRAD>
inline void add_block(const Tensor& t, int64_t start, int64_t count, double* sums, float* maxima) {
    const float *parameter = t.parameter + start, *gradient = t.gradient + start, *first = t.first + start,
                *second = t.second + start, *largest = t.denominator + start;
    const float first_scale = t.first_scale, second_scale = t.second_scale, eps = t.eps;
    const float floor = eps > 1.17549435e-38f ? eps : 1.17549435e-38f;
    Accumulator g2 = 0, p2 = 0, m2 = 0, vs = 0, us = 0, u2 = 0, swamped = 0, surprise = 0;
    int32_t zero = 0, alive = 0;
    float m_max = maxima[FIRST_MAX], v_max = maxima[SECOND_MAX], v_min = maxima[SECOND_MIN], u_max = maxima[RATIO_MAX];
#pragma omp simd reduction(+ : g2, p2, m2, vs, us, u2, swamped, surprise, zero, alive) reduction(max : m_max, v_max, v_min, u_max)
    for (int64_t i = 0; i < count; i++) {
        const float p = parameter[i], g = gradient[i], m = std::fabs(first[i]), v = second[i];
        const float root = std::sqrt(v * second_scale);
        const float inverse = 1.0f / ((AMSGRAD ? std::sqrt(largest[i] * second_scale) : root) + eps);
        const float u = m * first_scale * inverse;
        const float r = g / (floor > root ? floor : root);
        g2 += Accumulator(g) * g;
        p2 += Accumulator(p) * p;
        m2 += Accumulator(m) * m;
        vs += v;
        us += u;
        u2 += Accumulator(u) * u;
        swamped += v != 0 ? eps * inverse : 0.0f;
        surprise += Accumulator(r) * r;
        zero += g == 0;
        alive += v != 0;
        m_max = m > m_max ? m : m_max;
        v_max = v > v_max ? v : v_max;
        v_min = -v > v_min ? -v : v_min;
        u_max = u > u_max ? u : u_max;
    }
    const double added[SUMS] = {double(g2), double(zero), double(p2), double(m2),      double(vs),
                                double(alive), double(us), double(u2), double(swamped), double(surprise)};
    std::memcpy(sums, added, sizeof added);
    maxima[FIRST_MAX] = m_max, maxima[SECOND_MAX] = v_max, maxima[SECOND_MIN] = v_min, maxima[RATIO_MAX] = u_max;
}

bool lost_range(const double* sums) {
    for (int i : {GRADIENT, PARAMETER, FIRST, SECOND, RATIO, RATIO_SQUARED, SURPRISE})
        if (!(sums[i] < 3e38 && sums[i] > 1e-28)) return true;
    return false;
}

template <bool AMSGRAD>
void add_chunk(const Tensor& t, int64_t start, int64_t end, Partial& partial) {
    for (int64_t at = start; at < end; at += BLOCK) {
        const int64_t count = end - at < BLOCK ? end - at : BLOCK;
        double sums[SUMS];
        add_block<float, AMSGRAD>(t, at, count, sums, partial.maxima);
        if (lost_range(sums)) add_block<double, AMSGRAD>(t, at, count, sums, partial.maxima);
        for (int i = 0; i < SUMS; i++) partial.sums[i] += sums[i];
    }
}

// One element of each cell of `stride` elements, at a place that a golden-ratio sequence gives: see sample_positions().
void take_sample(const Tensor& t, int64_t start, int64_t end, const Bins& bins, float* sample, Partial& partial) {
    const int64_t low = start + t.offset, high = end + t.offset;
    int64_t from = low / t.stride, to = (high - 1) / t.stride + 1;
    to = to < t.slots ? to : t.slots;
    constexpr int64_t AT_ONCE = 512;
    float first[AT_ONCE], denominator[AT_ONCE];
    int64_t slot[AT_ONCE];
    for (int64_t cell = from; cell < to;) {
        int64_t n = 0;
        for (; cell < to && n < AT_ONCE; cell++) {
            const uint64_t jitter = uint32_t(cell) * 2654435761u;
            const int64_t place = cell * t.stride + int64_t((jitter & 0xffffffffu) * uint64_t(t.stride) >> 32);
            slot[n] = cell;
            if (place >= low && place < high) {
                first[n] = t.first[place - t.offset];
                denominator[n++] = t.denominator[place - t.offset];
            }
        }
#pragma omp simd
        for (int64_t i = 0; i < n; i++) {
            const float rate = t.lr / (std::sqrt(denominator[i] * t.second_scale) + t.eps);
            first[i] = std::fabs(first[i]) * t.first_scale * rate;
            denominator[i] = rate;
        }
        for (int64_t i = 0; i < n; i++) {
            sample[t.slot + slot[i]] = denominator[i];
            bins.count(denominator[i], partial.rate_counts);
            bins.count(first[i], partial.step_counts);
        }
    }
}

template <class Work>
void in_parallel(int threads, int64_t units, const Work& work) {
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

constexpr int CELLS = 4096;

// The value of one rank: the members of its cell, then nth_element among them.
float value_at(const std::vector<float>& values, const std::vector<uint16_t>& cells, const uint32_t* counts, int64_t rank,
               std::vector<float>& members) {
    int64_t below = 0;
    uint32_t cell = 0;
    while (below + counts[cell] <= rank) below += counts[cell++];
    members.clear();
    for (size_t i = 0; i < values.size(); i++)
        if (cells[i] == cell) members.push_back(values[i]);
    std::nth_element(members.begin(), members.begin() + (rank - below), members.end());
    return members[rank - below];
}

// Linear interpolation between neighbouring ranks, as numpy.quantile; NaN where a value is.
void quantiles(const float* sample, int64_t count, const double* at, int n_at, double* out) {
    std::vector<float> values(sample, sample + count), members;
    std::vector<uint16_t> cells(count);
    std::vector<uint32_t> counts(CELLS, 0);
    bool missing = count == 0;
    for (int64_t i = 0; i < count; i++) {
        uint32_t bits;
        std::memcpy(&bits, &values[i], 4);
        missing |= std::isnan(values[i]);
        cells[i] = static_cast<uint16_t>((bits >> 31 ? ~bits : bits | 0x80000000u) >> 20);  // in the order of the values
        counts[cells[i]]++;
    }
    for (int i = 0; i < n_at; i++) {
        const double spot = at[i] * double(count - 1);
        const int64_t rank = static_cast<int64_t>(spot);
        out[i] = NAN;
        if (missing) continue;
        const double low = value_at(values, cells, counts.data(), rank, members);
        const double high = value_at(values, cells, counts.data(), rank + 1 < count ? rank + 1 : rank, members);
        out[i] = low == high ? low : low + (high - low) * (spot - double(rank));
    }
}

}  // namespace

extern "C" int lightning_adam_reduce(const Tensor* tensors, int64_t n_tensors, const double* log10_edges, int threads,
                                     double* sums, double* maxima, float* sample) try {
    const Bins bins(log10_edges);
    std::vector<int64_t> begins(1, 0);
    std::vector<int32_t> owners;
    for (int64_t i = 0; i < n_tensors; i++) {
        const int64_t chunks = (tensors[i].numel + CHUNK - 1) / CHUNK;
        begins.push_back(begins.back() + chunks);
        owners.insert(owners.end(), chunks, static_cast<int32_t>(i));
    }
    std::vector<Partial> partials(owners.size());
    in_parallel(threads, static_cast<int64_t>(owners.size()), [&](int64_t unit) {
        const Tensor& t = tensors[owners[unit]];
        const int64_t start = (unit - begins[owners[unit]]) * CHUNK;
        const int64_t end = start + CHUNK < t.numel ? start + CHUNK : t.numel;
        Partial& partial = partials[unit];
        for (float& maximum : partial.maxima) maximum = -INFINITY;
        t.denominator == t.second ? add_chunk<false>(t, start, end, partial) : add_chunk<true>(t, start, end, partial);
        take_sample(t, start, end, bins, sample, partial);
    });
    constexpr int WIDTH = SUMS + 2 * BINS;
    for (size_t unit = 0; unit < owners.size(); unit++) {
        const Partial& partial = partials[unit];
        double *row = sums + owners[unit] * WIDTH, *top = maxima + owners[unit] * MAXIMA;
        for (int i = 0; i < SUMS; i++) row[i] += partial.sums[i];
        for (int i = 0; i < BINS; i++) row[SUMS + i] += partial.step_counts[i], row[SUMS + BINS + i] += partial.rate_counts[i];
        for (int i = 0; i < MAXIMA; i++) top[i] = partial.maxima[i] > top[i] ? partial.maxima[i] : top[i];
    }
    return 0;
} catch (...) {
    return 1;
}

extern "C" int lightning_adam_quantiles(const float* sample, const int64_t* begins, int64_t n_tensors, const double* at, int n_at,
                                        int threads, double* out) try {
    in_parallel(threads, n_tensors, [&](int64_t i) {
        quantiles(sample + begins[i], begins[i + 1] - begins[i], at, n_at, out + i * n_at);
    });
    return 0;
} catch (...) {
    return 1;
}
