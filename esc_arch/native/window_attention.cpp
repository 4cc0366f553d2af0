// Attention inside windows of a feature map, on a CPU, in float32.
//
// Source: ESC, arXiv 2503.06671, section 3; softmax by tiles as in FlashAttention, arXiv 2205.14135.

#include "attention_map.hpp"
#include "intrinsics.hpp"
#include "threads.hpp"

namespace {

constexpr int TILE = 128;  // keys whose scores are held at one time: 16 KB, in the first cache

#define KERNEL "window_attention.hpp"
#include "instruction_sets.inc"
#undef KERNEL

using Attend = void (*)(const Map &, const Keys &, const Window &, int, int, int, float *);

struct Work {
    Map map;
    Attend attend;
    int parts;  // into which the rows of a window are cut
    long items;
    long next;
};

void *run(void *argument) {
    Work &work = *(Work *)argument;
    const Map &map = work.map;
    Keys keys = Keys::of(map, 8);
    void *memory = nullptr;
    const long floats = keys.floats() + (map.d + TILE + keys.channels) * 32L;
    if (posix_memalign(&memory, 64, floats * sizeof(float) + keys.offset_bytes())) return nullptr;
    float *scratch = keys.use(memory);
    for (long item; (item = take(work.next)) < work.items;) {
        const int part = item % work.parts, head = item / work.parts % map.heads;
        const Window window = map.window_of(item / work.parts / map.heads);
        const int first = window.rows * part / work.parts, last = window.rows * (part + 1) / work.parts;
        if (first == last) continue;
        keys.pack(map, window, head);
        work.attend(map, keys, window, head, first, last, scratch);
    }
    free(memory);
    return nullptr;
}

}  // namespace

// `lse`, the logarithms of the sums of powers, may be null.  Returns 0, or 1 when memory ran out.
extern "C" int esc_window_attention(const float *qkv, const long *qkv_strides, float *out, float *lse, const float *bias,
                                    const long *rows, const long *columns, int batch, int height,
                                    int width, int heads, int d, int window, int bias_row, float scale,
                                    int threads, int lanes) {
    Work work;
    Map &map = work.map;
    map.qkv = qkv, map.out = out, map.lse = lse, map.bias = bias, map.rows = rows, map.columns = columns;
    map.qkv_batch = qkv_strides[0], map.qkv_row = qkv_strides[1], map.qkv_column = qkv_strides[2];
    map.out_column = (long)heads * d, map.out_row = map.out_column * width, map.out_batch = map.out_row * height;
    map.batch = batch, map.height = height, map.width = width;
    map.heads = heads, map.d = d, map.window = window;
    map.bias_row = bias_row, map.bias_head = (long)(2 * window - 1) * bias_row;
    map.scale = scale;
    work.attend = WIDEST(lanes, attend_rows);
    const long whole = map.windows() * heads;
    // Small maps on many cores: parts of a window, so that there is work for all.
    work.parts = 1;
    while (whole * work.parts < 4L * threads && work.parts * 2 <= window) work.parts *= 2;
    work.items = whole * work.parts;
    work.next = 0;
    in_threads(work, threads < work.items ? threads : work.items, run);
    return work.next < work.items;
}
