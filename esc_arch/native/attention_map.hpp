// The feature map of an attention, and the keys of a window.
#pragma once

struct Window {
    int batch, row, column;  // of its upper left pixel
    int rows, columns;       // of the image inside the window
};

// The feature map, its result, and the table of biases.
struct Map {
    const float *qkv;
    float *out;
    float *lse;  // (batch, height, width, heads), or null
    const float *bias;
    const long *rows, *columns;  // where a row or column of the extended map lies in the image
    long qkv_batch, qkv_row, qkv_column, out_batch, out_row, out_column;
    int batch, height, width, heads, d, window;
    long bias_head, bias_row;
    float scale;

    const float *token(const Window &at, int y, int x) const {
        return qkv + at.batch * qkv_batch + rows[at.row + y] * qkv_row + columns[at.column + x] * qkv_column;
    }
    float *result(const Window &at, int y, int x) const {
        return out + at.batch * out_batch + (at.row + y) * out_row + (at.column + x) * out_column;
    }
    float *lse_of(const Window &at, int y, int x, int head) const {
        return lse + (((long)at.batch * height + at.row + y) * width + at.column + x) * heads + head;
    }
    long windows() const {
        return (long)batch * ((height + window - 1) / window) * ((width + window - 1) / window);
    }
    Window window_of(long number) const {
        const int across = (width + window - 1) / window, down = (height + window - 1) / window;
        Window at;
        at.column = number % across * window;
        at.row = number / across % down * window;
        at.batch = number / across / down;
        at.rows = height - at.row < window ? height - at.row : window;
        at.columns = width - at.column < window ? width - at.column : window;
        return at;
    }
};

// Keys and values of one head in one window, after each other.
struct Keys {
    float *k, *v;  // (padded, channels)
    long *offset;  // of a key's biases in the table
    int n, padded, d, channels;

    static Keys of(const Map &map, int channels) {
        Keys keys;
        keys.n = map.window * map.window, keys.padded = (keys.n + 7) / 8 * 8;
        keys.d = map.d, keys.channels = (map.d + channels - 1) / channels * channels;
        return keys;
    }
    long floats() const { return 2L * padded * channels; }
    long offset_bytes() const { return padded * (long)sizeof(long); }
    // Uses memory of offset_bytes() and floats(); returns what follows.
    float *use(void *memory) {
        offset = (long *)memory;
        k = (float *)((char *)memory + offset_bytes()), v = k + (long)padded * channels;
        return v + (long)padded * channels;
    }
    void pack(const Map &map, const Window &window, int head) {
        const long across = (long)map.heads * d;
        for (int i = 0; i < padded; i++) {
            const int token = i < n ? i : n - 1, y = token / map.window, x = token % map.window;
            const float *from = map.token(window, y, x) + head * d;
            for (int c = 0; c < channels; c++) {
                k[(long)i * channels + c] = c < d && i < n ? from[across + c] : 0;
                v[(long)i * channels + c] = c < d && i < n ? from[2 * across + c] : 0;
            }
            offset[i] = y * map.bias_row - x;
        }
    }
};
