/* The instructions on tiles in plain C, for processors that have none. Included in front of a kernel, it takes the place of
 * the intrinsics of the compiler; what the processor refuses ends the program.
 */
#ifndef C_AMX_SHIM_H
#define C_AMX_SHIM_H

#include <immintrin.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static uint8_t shim_config[64];
static uint8_t shim_tiles[8][16][64];

static inline size_t shim_rows(int tile) { return shim_config[48 + tile]; }

static inline size_t shim_bytes(int tile) {
    uint16_t bytes;
    memcpy(&bytes, shim_config + 16 + 2 * tile, 2);
    return bytes;
}

static inline void shim_check(int sound) {
    if (!sound) abort();
}

static inline void shim_loadconfig(const void *config) {
    memcpy(shim_config, config, 64);
    memset(shim_tiles, 0, sizeof shim_tiles);
    shim_check(shim_config[0] == 1 && shim_config[1] == 0);
    for (int tile = 0; tile < 8; ++tile)
        shim_check(shim_rows(tile) > 0 && shim_rows(tile) <= 16 && shim_bytes(tile) > 0 && shim_bytes(tile) <= 64);
}

static inline void shim_release(void) { memset(shim_config, 0, sizeof shim_config); }

static inline void shim_loadd(int tile, const void *from, size_t stride) {
    shim_check(shim_rows(tile) > 0);
    memset(shim_tiles[tile], 0, sizeof shim_tiles[tile]);
    for (size_t r = 0; r < shim_rows(tile); ++r)
        memcpy(shim_tiles[tile][r], (const char *)from + r * stride, shim_bytes(tile));
}

static inline void shim_stored(int tile, void *to, size_t stride) {
    shim_check(shim_rows(tile) > 0);
    for (size_t r = 0; r < shim_rows(tile); ++r)
        memcpy((char *)to + r * stride, shim_tiles[tile][r], shim_bytes(tile));
}

static inline void shim_zero(int tile) {
    shim_check(shim_rows(tile) > 0);
    memset(shim_tiles[tile], 0, sizeof shim_tiles[tile]);
}

/* Products of bytes, of which either side is signed or not. */
static inline void shim_dot(int sums, int a, int b, int signed_a) {
    shim_check(shim_rows(sums) == shim_rows(a) && shim_bytes(a) == 4 * shim_rows(b) && shim_bytes(sums) == shim_bytes(b));
    for (size_t m = 0; m < shim_rows(sums); ++m)
        for (size_t n = 0; n < shim_bytes(sums) / 4; ++n) {
            int32_t sum;
            memcpy(&sum, shim_tiles[sums][m] + 4 * n, 4);
            for (size_t k = 0; k < shim_bytes(a); ++k) {
                const uint8_t x = shim_tiles[a][m][k], y = shim_tiles[b][k / 4][4 * n + k % 4];
                sum += signed_a ? (int8_t)x * (int32_t)y : (int32_t)x * (int8_t)y;
            }
            memcpy(shim_tiles[sums][m] + 4 * n, &sum, 4);
        }
}

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_loadd
#undef _tile_stored
#undef _tile_zero
#undef _tile_dpbusd
#undef _tile_dpbsud
#define _tile_loadconfig(config) shim_loadconfig(config)
#define _tile_release() shim_release()
#define _tile_loadd(tile, from, stride) shim_loadd(tile, from, (size_t)(stride))
#define _tile_stored(tile, to, stride) shim_stored(tile, to, (size_t)(stride))
#define _tile_zero(tile) shim_zero(tile)
#define _tile_dpbusd(sums, a, b) shim_dot(sums, a, b, 0)
#define _tile_dpbsud(sums, a, b) shim_dot(sums, a, b, 1)

#endif
