// Element types, lanes and the loop over threads. Everything here has internal linkage: the same sources are compiled
// once per instruction set, and the linker must not merge what they give.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace {

using i64 = std::int64_t;

#if defined(__AVX512F__)
constexpr int lanes = 16;
#elif defined(__AVX__)
constexpr int lanes = 8;
#else
constexpr int lanes = 4;
#endif
typedef float vector __attribute__((vector_size(lanes * sizeof(float)), aligned(4), may_alias));

// bfloat16: the upper half of a float32, rounded to nearest even.
struct bf16 {
    std::uint16_t bits;
};

inline float wide(float value) { return value; }

inline float wide(bf16 value) {
    std::uint32_t bits = static_cast<std::uint32_t>(value.bits) << 16;
    float result;
    std::memcpy(&result, &bits, sizeof result);
    return result;
}

inline void store(float *place, float value) { *place = value; }

inline void store(bf16 *place, float value) {
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    // A NaN must not round to infinity.
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        place->bits = 0x7fc0;
        return;
    }
    bits += 0x7fffu + ((bits >> 16) & 1u);
    place->bits = static_cast<std::uint16_t>(bits >> 16);
}

// Memory of one task, given out front to back.
class Scratch {
  public:
    // On a line of the cache, lest a vector lies across two.
    explicit Scratch(i64 floats)
        : start(static_cast<float *>(std::aligned_alloc(64, (static_cast<size_t>(floats) * sizeof(float) + 63) / 64 * 64))),
          next(start) {
        if (!start) {
            std::abort();
        }
    }
    ~Scratch() { std::free(start); }
    Scratch(const Scratch &) = delete;
    Scratch &operator=(const Scratch &) = delete;
    float *take(i64 floats) {
        float *place = next;
        next += floats;
        return place;
    }

  private:
    float *start;
    float *next;
};

inline vector load(const float *place) { return *reinterpret_cast<const vector *>(place); }

inline vector load(const bf16 *place) {
    typedef std::uint16_t halves __attribute__((vector_size(lanes * sizeof(std::uint16_t)), aligned(2), may_alias));
    typedef std::uint32_t words __attribute__((vector_size(lanes * sizeof(std::uint32_t))));
    const words bits = __builtin_convertvector(*reinterpret_cast<const halves *>(place), words) << 16;
    vector result;
    std::memcpy(&result, &bits, sizeof result);
    return result;
}

inline void clear(float *row, i64 from, i64 to) {
    for (i64 c = from; c < to; ++c) {
        row[c] = 0.0f;
    }
}

// The first `count` values, and zeros.
template <typename T> inline vector load_some(const T *place, i64 count) {
    float values[lanes] = {};
    for (i64 i = 0; i < count; ++i) {
        values[i] = wide(place[i]);
    }
    return load(values);
}

// By halves, which takes fewer steps one after the other than from lane to lane.
inline float sum(vector values) {
    float halves[lanes];
    std::memcpy(halves, &values, sizeof halves);
    for (int half = lanes / 2; half > 0; half /= 2) {
        for (int lane = 0; lane < half; ++lane) {
            halves[lane] += halves[lane + half];
        }
    }
    return halves[0];
}

inline i64 smaller(i64 left, i64 right) { return left < right ? left : right; }
inline float larger(float left, float right) { return left > right ? left : right; }

// e^x to about one unit in the last place, in a form that compilers turn into vector code (Cephes' polynomial).
inline float exponential(float x) {
    x = x < -87.33654f ? -87.33654f : x;
    x = x > 88.02969f ? 88.02969f : x;
    // Adding 1.5 * 2^23 rounds to a whole number.
    float shifted = x * 1.44269504088896341f + 12582912.0f;
    float power = shifted - 12582912.0f;
    float rest = x - power * 0.693359375f - power * -2.12194440e-4f;
    float value = 1.9875691500e-4f;
    value = value * rest + 1.3981999507e-3f;
    value = value * rest + 8.3334519073e-3f;
    value = value * rest + 4.1665795894e-2f;
    value = value * rest + 1.6666665459e-1f;
    value = value * rest + 5.0000001201e-1f;
    value = value * rest * rest + rest + 1.0f;
    std::int32_t exponent;
    std::memcpy(&exponent, &shifted, sizeof exponent);
    std::int32_t bits = (exponent - 0x4b400000 + 127) << 23;
    float scale;
    std::memcpy(&scale, &bits, sizeof scale);
    return value * scale;
}

inline float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }
inline float hyperbolic_tangent(float x) { return 2.0f * sigmoid(2.0f * x) - 1.0f; }

// Runs `body(i)` for i in [0, count), in parallel where there is enough work. Rows are independent, so the result does
// not depend on the number of threads.
template <typename Body> inline void each(i64 count, i64 work_per_item, const Body &body) {
    const bool parallel = count > 1 && count * work_per_item > 16384;
#pragma omp parallel for schedule(static) if (parallel)
    for (i64 i = 0; i < count; ++i) {
        body(i);
    }
}

// The same for tasks that take long, handed out one by one, as one thread may be held up by what else the machine does.
template <typename Body> inline void each_in_turn(i64 count, const Body &body) {
#pragma omp parallel for schedule(dynamic) if (count > 1)
    for (i64 i = 0; i < count; ++i) {
        body(i);
    }
}

} // namespace
