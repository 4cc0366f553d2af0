// The parameters of a layer as the kernels read them.
#pragma once

#include "abi.hpp"

// A 1x1 convolution, with its weight turned and its output channels padded to whole vectors.
struct Pointwise {
    float *weight;  // (in, padded)
    float *bias;    // (padded)
    int in;
    int out;
    int padded;

    static int64_t floats(int64_t in, int64_t padded) { return padded * (in + 1); }
};

// Channels that fill whole vectors of every instruction set.
inline int round_up(int channels) { return (channels + 15) / 16 * 16; }

// Turns a layer from (out, in) to (in, padded), in memory of Pointwise::floats(in, round_up(out)).
inline Pointwise turn(const Layer &layer, int in, int out, float *memory) {
    const int padded = round_up(out);
    const Pointwise turned = {memory, memory + (int64_t)padded * in, in, out, padded};
    for (int c = 0; c < padded; c++) {
        turned.bias[c] = c < out ? layer.bias[c] : 0;
        for (int i = 0; i < in; i++)
            turned.weight[(int64_t)i * padded + c] = c < out ? layer.weight[(int64_t)c * in + i] : 0;
    }
    return turned;
}
