// 1x1 convolutions and norms of runs of pixels.
//
// Included by the kernels, which include layers.hpp before.

struct Convolution {
    const Pointwise &layer;
    const float *in;
    int64_t in_stride;
    float *out;
    bool activate;

    template <int P, int V>
    TARGET inline void run(int pixel, int column) const {
        vec acc[P][V];
#pragma GCC unroll 6
        for (int i = 0; i < P; i++)
#pragma GCC unroll 5
            for (int j = 0; j < V; j++) acc[i][j] = load(layer.bias + column + j * LANES);
        accumulate(acc, in + pixel * in_stride, in_stride, layer.in, layer.weight + column, layer.padded);
        float *to = out + (int64_t)pixel * layer.padded + column;
#pragma GCC unroll 6
        for (int i = 0; i < P; i++)
#pragma GCC unroll 5
            for (int j = 0; j < V; j++)
                store(to + i * layer.padded + j * LANES, activate ? gelu(acc[i][j]) : acc[i][j]);
    }
};

// A 1x1 convolution of `pixels` pixels, with a GELU if wanted.
TARGET inline void pointwise(const Pointwise &layer, const float *in, int64_t in_stride, int pixels, float *out,
                             bool activate) {
    for_blocks(Convolution{layer, in, in_stride, out, activate}, pixels, layer.padded);
}

// Layer normalisation of one pixel over its channels.
TARGET inline void normalise_pixel(const Norm &norm, const float *in, int channels, float *out) {
    const int whole = channels / LANES * LANES;
    vec total = {};
    float mean = 0;
    for (int c = 0; c < whole; c += LANES) total += load(in + c);
    for (int c = whole; c < channels; c++) mean += in[c];
    mean = (mean + sum(total)) / channels;
    total = vec{};
    float variance = 0;
    for (int c = 0; c < whole; c += LANES) {
        vec d = load(in + c) - mean;
        total += d * d;
    }
    for (int c = whole; c < channels; c++) variance += (in[c] - mean) * (in[c] - mean);
    variance = (variance + sum(total)) / channels;
    const float factor = 1 / __builtin_sqrtf(variance + norm.eps);
    for (int c = 0; c < whole; c += LANES)
        store(out + c, (load(in + c) - mean) * factor * load(norm.weight + c) + load(norm.bias + c));
    for (int c = whole; c < channels; c++) out[c] = (in[c] - mean) * factor * norm.weight[c] + norm.bias[c];
}

// The same for `pixels` pixels, side by side in the result.
TARGET inline void normalise(const Norm &norm, const float *in, int64_t in_stride, int channels, int pixels,
                             float *out) {
    for (int p = 0; p < pixels; p++)
        normalise_pixel(norm, in + p * in_stride, channels, out + (int64_t)p * channels);
}
