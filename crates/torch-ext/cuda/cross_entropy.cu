// Cross-entropy of rows of scores, and its gradient in their place: one block for each row, two passes over it.

// What a part of a row amounts to: its greatest score, where that is first, and the sum of e^(score - greatest).
struct Part {
    float most;
    float sum;
    i64 first;
};

__device__ inline Part joined(Part left, Part right) {
    const bool is_left = left.most > right.most || (left.most == right.most && left.first < right.first);
    const float most = is_left ? left.most : right.most;
    return {most, left.sum * expf(left.most - most) + right.sum * expf(right.most - most),
            is_left ? left.first : right.first};
}

template <typename T> __device__ inline float capped(T score, float cap) {
    // Rounded, as the kernel for the CPU stores it.
    return cap > 0.0f ? wide(narrow<T>(cap * tanhf(wide(score) / cap))) : wide(score);
}

template <int width, typename T> __device__ Part part_of_row(i64 vocabulary, const T *score, float cap) {
    // Finite, so that a score of -infinity counts as nothing and does not make a NaN.
    Part part = {-3.402823466e38f, 0.0f, vocabulary};
    for (i64 c = threadIdx.x * width; c < vocabulary; c += blockDim.x * width) {
        const auto pack = load<T, width>(score + c);
        for (int i = 0; i < width; ++i) {
            const float value = capped(pack.element[i], cap);
            if (value > part.most) {
                part.sum = part.sum * expf(part.most - value) + 1.0f;
                part.most = value;
                part.first = c + i;
            } else {
                part.sum += expf(value - part.most);
            }
        }
    }
    return part;
}

__device__ inline Part whole_row(Part part) {
    __shared__ Part room[32];
    for (int distance = 16; distance > 0; distance /= 2) {
        const Part other = {__shfl_xor_sync(0xffffffffu, part.most, distance),
                            __shfl_xor_sync(0xffffffffu, part.sum, distance),
                            __shfl_xor_sync(0xffffffffu, part.first, distance)};
        part = joined(part, other);
    }
    if (threadIdx.x % 32 == 0) {
        room[threadIdx.x / 32] = part;
    }
    __syncthreads();
    part = room[0];
    for (int warp = 1; warp < blockDim.x / 32; ++warp) {
        part = joined(part, room[warp]);
    }
    return part;
}

template <int width, typename T>
__device__ void slopes_of_row(i64 vocabulary, T *score, i64 target, float factor, float cap, Part row) {
    const float share = factor / row.sum;
    for (i64 c = threadIdx.x * width; c < vocabulary; c += blockDim.x * width) {
        auto pack = load<T, width>(score + c);
        for (int i = 0; i < width; ++i) {
            const float value = capped(pack.element[i], cap);
            const float bend = cap > 0.0f ? 1.0f - value / cap * (value / cap) : 1.0f;
            const float slope = share * expf(value - row.most) - (c + i == target ? factor : 0.0f);
            pack.element[i] = narrow<T>(slope * bend);
        }
        store(score + c, pack);
    }
}

template <int width, typename T>
__device__ void cross_entropy(i64 vocabulary, T *score, i64 target, float weight, float scale, float cap,
                              bool backward, float *loss, i64 *hit) {
    const Part row = whole_row(part_of_row<width>(vocabulary, score, cap));
    const float own = capped(score[target], cap);
    if (threadIdx.x == 0) {
        // A row that is not finite must show in the loss.
        const float poison = (row.most - row.most) + (row.sum - row.sum);
        *loss = weight * (logf(row.sum) + row.most - own) + poison;
        *hit = row.first == target;
    }
    // Every thread has read the target's score before it is overwritten.
    __syncthreads();
    if (backward) {
        slopes_of_row<width>(vocabulary, score, target, weight * scale, cap, row);
    }
}

#define DEFINE(T, name)                                                                                                \
    extern "C" __global__ void cross_entropy_##name(i64 vocabulary, T *scores, const i64 *targets,                     \
                                                    const float *weights, float scale, float cap, int backward,        \
                                                    float *losses, i64 *hits) {                                        \
        const i64 row = blockIdx.x;                                                                                    \
        T *score = scores + row * vocabulary;                                                                          \
        if (aligned(scores, vocabulary)) {                                                                             \
            cross_entropy<full<T>>(vocabulary, score, targets[row], weights[row], scale, cap, backward, losses + row,  \
                                   hits + row);                                                                        \
        } else {                                                                                                       \
            cross_entropy<1>(vocabulary, score, targets[row], weights[row], scale, cap, backward, losses + row,        \
                             hits + row);                                                                              \
        }                                                                                                              \
    }
DEFINE(float, float32)
DEFINE(bf16, bfloat16)
#undef DEFINE
