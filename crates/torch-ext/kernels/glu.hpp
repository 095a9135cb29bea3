// Gated linear units: p = act(g) u, with g and u side by side in one row [g | u].
#pragma once

#include "element.hpp"

namespace {

struct Silu {
    static float value(float x) { return x * sigmoid(x); }
    static void both(float x, float *value, float *slope) {
        const float share = sigmoid(x);
        *value = x * share;
        *slope = share * (1.0f + x * (1.0f - share));
    }
};

// The tanh form of GELU.
struct Gelu {
    static constexpr float root = 0.7978845608028654f;
    static constexpr float cubic = 0.044715f;
    static float value(float x) {
        return 0.5f * x * (1.0f + hyperbolic_tangent(root * (x + cubic * x * x * x)));
    }
    static void both(float x, float *value, float *slope) {
        const float bend = hyperbolic_tangent(root * (x + cubic * x * x * x));
        *value = 0.5f * x * (1.0f + bend);
        *slope = 0.5f * (1.0f + bend) + 0.5f * x * (1.0f - bend * bend) * root * (1.0f + 3.0f * cubic * x * x);
    }
};

template <typename T, typename Activation>
void glu_forward(i64 rows, i64 inner, const T *gate_up, T *product) {
    each(rows, inner * 16, [&](i64 row) {
        const T *gate = gate_up + row * 2 * inner;
        const T *up = gate + inner;
        T *out = product + row * inner;
#pragma omp simd
        for (i64 c = 0; c < inner; ++c) {
            store(out + c, Activation::value(wide(gate[c])) * wide(up[c]));
        }
    });
}

// Overwrites [g | u] with [dg | du] and dp with p, so that nothing new is needed.
template <typename T, typename Activation> void glu_backward(i64 rows, i64 inner, T *gate_up, T *product) {
    each(rows, inner * 24, [&](i64 row) {
        T *gate = gate_up + row * 2 * inner;
        T *up = gate + inner;
        T *gradient = product + row * inner;
#pragma omp simd
        for (i64 c = 0; c < inner; ++c) {
            float value, slope;
            Activation::both(wide(gate[c]), &value, &slope);
            const float u = wide(up[c]), dp = wide(gradient[c]);
            store(gate + c, dp * u * slope);
            store(up + c, dp * value);
            store(gradient + c, value * u);
        }
    });
}

} // namespace
