// x + attention of the normalised x inside windows, on a CPU, in float32.
//
// A thread takes a whole window: its queries, keys and values stay in the cache of a core, and of
// the feature map nothing but the input and the result is in memory.
//
// Source: ESC, arXiv 2503.06671, section 3; softmax by tiles as in FlashAttention, arXiv 2205.14135.

#include "attention_map.hpp"
#include "intrinsics.hpp"
#include "layers.hpp"
#include "threads.hpp"

namespace {

constexpr int TILE = 128;  // see window_attention.cpp
constexpr int RUN = 120;   // pixels that are normalised and convolved at one time; whole blocks of 5 and 6

struct AttentionLayer {
    const AttentionLayerCall &call;
    Pointwise to_qkv;
    Pointwise to_out;
};

// What a thread works in.
struct WindowMemory {
    AttentionMap map;  // of one window alone
    Keys keys;
    float *qkv;     // (tokens, padded)
    float *normal;  // (RUN, channels)
    float *scratch;
};

#define KERNEL "attention_layer.hpp"
#include "instruction_sets.inc"
#undef KERNEL

struct Work {
    AttentionLayer layer;
    void (*attend_window)(const AttentionLayer &, const Window &, WindowMemory &);
    Windows windows;
    int64_t next;
};

// One window as a map: queries, keys and values side by side in each pixel.
AttentionMap map_of_window(const Attention &attention, float *qkv, int64_t column_stride, const int64_t *places) {
    const int64_t row_stride = column_stride * attention.window;
    AttentionMap map = {};
    map.qkv = {qkv, row_stride * attention.window, row_stride, column_stride};
    // A head's result takes the place of its queries, which nobody else reads.
    map.out = map.qkv;
    map.size = {1, attention.window, attention.window};
    map.attention = attention;
    map.attention.rows = places;
    map.attention.columns = places;
    return map;
}

// A thread that finds no memory leaves the windows to the others.
void *run(void *argument) {
    Work &work = *(Work *)argument;
    const Pointwise &to_qkv = work.layer.to_qkv;
    const Attention &attention = work.layer.call.attention;
    const int window = attention.window;
    WindowMemory at = {};
    at.keys = Keys::of(attention, 8);
    const int64_t qkv_floats = (int64_t)window * window * to_qkv.padded;
    const int64_t normal_floats = (int64_t)RUN * to_qkv.in;
    const int64_t scratch_floats = (attention.head_channels + TILE + at.keys.channels) * (int64_t)32;
    const int64_t floats = at.keys.floats() + qkv_floats + normal_floats + scratch_floats;
    void *memory = cache_lines(window * sizeof(int64_t) + at.keys.offset_bytes() + floats * sizeof(float));
    if (!memory) return nullptr;
    int64_t *places = (int64_t *)memory;
    for (int i = 0; i < window; i++) places[i] = i;
    at.qkv = at.keys.use(places + window);
    at.normal = at.qkv + qkv_floats;
    at.scratch = at.normal + normal_floats;
    at.map = map_of_window(attention, at.qkv, to_qkv.padded, places);
    const int64_t windows = work.windows.count();
    for (int64_t i; (i = take(work.next)) < windows;) work.attend_window(work.layer, work.windows.window(i), at);
    free(memory);
    return nullptr;
}

}  // namespace

extern "C" int esc_attention_layer(const AttentionLayerCall *call) {
    if (call->size != sizeof *call) return OTHER_VERSION;
    const int channels = call->channels;
    const int64_t qkv_floats = Pointwise::floats(channels, round_up(3 * channels));
    float *memory = floats_in_cache_lines(qkv_floats + Pointwise::floats(channels, channels));
    if (!memory) return NO_MEMORY;
    Work work = {
        {
            *call,
            turn(call->to_qkv, channels, 3 * channels, memory),
            turn(call->to_out, channels, channels, memory + qkv_floats),
        },
        WIDEST(call->lanes, attend_window),
        {call->map, call->attention.window},
        0,
    };
    const int64_t windows = work.windows.count();
    in_threads(work, call->threads, windows, run);
    free(memory);
    return work.next < windows ? NO_MEMORY : DONE;
}
