// Gated linear units: p = act(g) u, with g and u side by side in one row [g | u]. Blocks: rows, and parts of a row.

__device__ inline float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

struct Silu {
    __device__ static void both(float x, float *value, float *slope) {
        const float share = sigmoid(x);
        *value = x * share;
        *slope = share * (1.0f + x * (1.0f - share));
    }
};

// The tanh form of GELU.
struct Gelu {
    __device__ static void both(float x, float *value, float *slope) {
        const float root = 0.7978845608028654f, cubic = 0.044715f;
        const float bend = tanhf(root * (x + cubic * x * x * x));
        *value = 0.5f * x * (1.0f + bend);
        *slope = 0.5f * (1.0f + bend) + 0.5f * x * (1.0f - bend * bend) * root * (1.0f + 3.0f * cubic * x * x);
    }
};

template <int width, typename Activation, typename T>
__device__ void glu_forward(i64 inner, const T *gate, T *product) {
    const T *up = gate + inner;
    const i64 step = static_cast<i64>(gridDim.y) * blockDim.x * width;
    for (i64 c = (static_cast<i64>(blockIdx.y) * blockDim.x + threadIdx.x) * width; c < inner; c += step) {
        auto pack = load<T, width>(gate + c);
        const auto factor = load<T, width>(up + c);
        for (int i = 0; i < width; ++i) {
            float value, slope;
            Activation::both(wide(pack.element[i]), &value, &slope);
            pack.element[i] = narrow<T>(value * wide(factor.element[i]));
        }
        store(product + c, pack);
    }
}

// Overwrites [g | u] with [dg | du] and dp with p.
template <int width, typename Activation, typename T>
__device__ void glu_backward(i64 inner, T *gate, T *product) {
    T *up = gate + inner;
    const i64 step = static_cast<i64>(gridDim.y) * blockDim.x * width;
    for (i64 c = (static_cast<i64>(blockIdx.y) * blockDim.x + threadIdx.x) * width; c < inner; c += step) {
        auto first = load<T, width>(gate + c), second = load<T, width>(up + c), third = load<T, width>(product + c);
        for (int i = 0; i < width; ++i) {
            float value, slope;
            Activation::both(wide(first.element[i]), &value, &slope);
            const float u = wide(second.element[i]), dp = wide(third.element[i]);
            first.element[i] = narrow<T>(dp * u * slope);
            second.element[i] = narrow<T>(dp * value);
            third.element[i] = narrow<T>(value * u);
        }
        store(gate + c, first);
        store(up + c, second);
        store(product + c, third);
    }
}

template <typename Activation, typename T> __device__ void gate(i64 inner, const T *gate_up, T *product) {
    const bool whole = aligned(gate_up, inner) && aligned(product, inner);
    const i64 row = blockIdx.x;
    if (whole) {
        glu_forward<full<T>, Activation>(inner, gate_up + row * 2 * inner, product + row * inner);
    } else {
        glu_forward<1, Activation>(inner, gate_up + row * 2 * inner, product + row * inner);
    }
}

template <typename Activation, typename T> __device__ void gate_backward(i64 inner, T *gate_up, T *product) {
    const bool whole = aligned(gate_up, inner) && aligned(product, inner);
    const i64 row = blockIdx.x;
    if (whole) {
        glu_backward<full<T>, Activation>(inner, gate_up + row * 2 * inner, product + row * inner);
    } else {
        glu_backward<1, Activation>(inner, gate_up + row * 2 * inner, product + row * inner);
    }
}

#define DEFINE(T, name)                                                                                                \
    extern "C" __global__ void gate_##name(int gelu, i64 inner, const T *gate_up, T *product) {                        \
        gelu ? gate<Gelu>(inner, gate_up, product) : gate<Silu>(inner, gate_up, product);                              \
    }                                                                                                                  \
    extern "C" __global__ void gate_backward_##name(int gelu, i64 inner, T *gate_up, T *product) {                     \
        gelu ? gate_backward<Gelu>(inner, gate_up, product) : gate_backward<Silu>(inner, gate_up, product);            \
    }
DEFINE(float, float32)
DEFINE(bf16, bfloat16)
#undef DEFINE
