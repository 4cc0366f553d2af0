// The map of an attention, its windows, and the keys and values of one of them.
#pragma once

#include "feature_map.hpp"

struct Window {
    int image;
    int row;      // of its upper left pixel
    int column;
    int rows;     // of the map inside the window
    int columns;
};

// The windows of a map that is extended to whole ones.
struct Windows {
    MapSize map;
    int side;

    int across() const { return (map.width + side - 1) / side; }
    int down() const { return (map.height + side - 1) / side; }
    int64_t count() const { return (int64_t)map.batch * down() * across(); }

    Window window(int64_t number) const {
        Window window;
        window.column = number % across() * side;
        window.row = number / across() % down() * side;
        window.image = number / across() / down();
        window.rows = map.height - window.row < side ? map.height - window.row : side;
        window.columns = map.width - window.column < side ? map.width - window.column : side;
        return window;
    }
};

struct AttentionMap {
    FeatureMap qkv;
    FeatureMap out;
    float *lse;  // (batch, height, width, heads): log-sum-exp of the scores, or null
    MapSize size;
    Attention attention;

    Windows windows() const { return {size, attention.window}; }
    int64_t bias_head_stride() const { return (2 * attention.window - 1) * attention.bias_stride; }

    // The biases of the query (y, x) of a window; those of a key begin at its offset, see Keys.
    int64_t bias_of(int y, int x) const {
        return (attention.window - 1 - y) * attention.bias_stride + attention.window - 1 + x;
    }
    // Query, key and value of the token (y, x) of a window, reflected beyond the map.
    const float *token(const Window &window, int y, int x) const {
        return pixel(qkv, window.image, attention.rows[window.row + y], attention.columns[window.column + x]);
    }
    // What stands at that place of a map without reflection.
    static float *at(const FeatureMap &map, const Window &window, int y, int x) {
        return pixel(map, window.image, window.row + y, window.column + x);
    }
    float *lse_at(const Window &window, int y, int x, int head) const {
        const int64_t row = (int64_t)window.image * size.height + window.row + y;
        return lse + (row * size.width + window.column + x) * attention.heads + head;
    }
};

// Keys and values of one head in one window, one behind the other.
struct Keys {
    float *k;         // (padded, channels)
    float *v;         // (padded, channels)
    int64_t *offset;  // of a key's biases in the table
    int n;            // keys of the window
    int padded;
    int d;            // channels of a head
    int channels;     // `d` padded

    static Keys of(const Attention &attention, int multiple) {
        Keys keys = {};
        keys.n = attention.window * attention.window;
        keys.padded = (keys.n + 7) / 8 * 8;
        keys.d = attention.head_channels;
        keys.channels = (keys.d + multiple - 1) / multiple * multiple;
        return keys;
    }

    int64_t floats() const { return (int64_t)2 * padded * channels; }
    int64_t offset_bytes() const { return padded * (int64_t)sizeof(int64_t); }

    // Uses memory of offset_bytes() and floats(); returns what follows.
    float *use(void *memory) {
        offset = (int64_t *)memory;
        k = (float *)((char *)memory + offset_bytes());
        v = k + (int64_t)padded * channels;
        return v + (int64_t)padded * channels;
    }

    void pack(const AttentionMap &map, const Window &window, int head) {
        const int64_t across = (int64_t)map.attention.heads * d;
        for (int i = 0; i < padded; i++) {
            const int token = i < n ? i : n - 1;
            const int y = token / map.attention.window;
            const int x = token % map.attention.window;
            const float *from = map.token(window, y, x) + head * d;
            for (int c = 0; c < channels; c++) {
                k[(int64_t)i * channels + c] = c < d && i < n ? from[across + c] : 0;
                v[(int64_t)i * channels + c] = c < d && i < n ? from[2 * across + c] : 0;
            }
            offset[i] = y * map.attention.bias_stride - x;
        }
    }
};
