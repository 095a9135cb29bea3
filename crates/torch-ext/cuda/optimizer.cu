// AdamW with decoupled decay, as torch.optim.AdamW, in one pass over flat buffers.

extern "C" __global__ void adamw(i64 count, float *parameters, const float *gradients, float *first, float *second,
                                 float share, float rate, float decay, float beta1, float beta2, float epsilon,
                                 float correction1, float correction2) {
    const i64 i = static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= count) {
        return;
    }
    const float gradient = gradients[i] * share;
    const float m = beta1 * first[i] + (1.0f - beta1) * gradient;
    const float v = beta2 * second[i] + (1.0f - beta2) * gradient * gradient;
    first[i] = m;
    second[i] = v;
    parameters[i] = parameters[i] * (1.0f - rate * decay) - rate / correction1 * m / (sqrtf(v) / correction2 + epsilon);
}
