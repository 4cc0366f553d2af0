// The parameters of a layer as the kernels read them.
#pragma once

// A 1x1 convolution, with its weight turned and its output channels padded to whole vectors.
struct Pointwise {
    float *weight, *bias;  // (in, padded), (padded)
    int in, out, padded;
};

// Layer normalisation over the channels of a pixel; none where the weight is null.
struct Norm {
    const float *weight, *bias;
    float eps;
};

// Channels that fill whole vectors of every instruction set.
inline long round_up(long channels) { return (channels + 15) / 16 * 16; }

// From (out, in) to (in, padded).
inline void turn(Pointwise &layer, const float *weight, const float *bias) {
    for (int c = 0; c < layer.padded; c++) {
        layer.bias[c] = c < layer.out ? bias[c] : 0;
        for (int i = 0; i < layer.in; i++)
            layer.weight[(long)i * layer.padded + c] = c < layer.out ? weight[(long)c * layer.in + i] : 0;
    }
}
