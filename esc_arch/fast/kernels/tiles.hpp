// Cutting maps into tiles, which threads take.
#pragma once

#include "abi.hpp"

struct Tile {
    int image;
    int top;
    int bottom;
    int left;
    int right;
};

struct Tiles {
    MapSize map;
    int tile_height;  // at most
    int tile_width;
    int across;
    int down;
    int64_t count;

    // Small maps on many cores get lower tiles, so that there is work for all.
    static Tiles of(const MapSize &map, int tile_height, int tile_width, int lowest, int threads) {
        Tiles tiles = {map, tile_height, tile_width, (map.width + tile_width - 1) / tile_width, 0, 0};
        tiles.cut();
        while (tiles.count < (int64_t)4 * threads && tiles.tile_height > lowest) {
            tiles.tile_height /= 2;
            tiles.cut();
        }
        return tiles;
    }

    Tile tile(int64_t number) const {
        Tile tile;
        tile.left = number % across * tile_width;
        tile.top = number / across % down * tile_height;
        tile.image = number / across / down;
        tile.right = tile.left + tile_width < map.width ? tile.left + tile_width : map.width;
        tile.bottom = tile.top + tile_height < map.height ? tile.top + tile_height : map.height;
        return tile;
    }

private:
    void cut() {
        down = (map.height + tile_height - 1) / tile_height;
        count = (int64_t)map.batch * across * down;
    }
};
