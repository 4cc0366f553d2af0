// Cutting maps into tiles, which threads take.
#pragma once

struct Tile {
    int batch, top, bottom, left, right;
};

// Pixels of the input around the map, which are looked at: parts of an image that goes by tiles.
struct Margins {
    int top, bottom, left, right;
};

struct Tiles {
    int height, width;            // of a map
    int tile_height, tile_width;  // of a tile, at most
    int across, down;
    long count;

    // Small maps on many cores get lower tiles, so that there is work for all.
    static Tiles of(int batch, int height, int width, int tile_height, int tile_width, int lowest, int threads) {
        Tiles tiles;
        tiles.height = height, tiles.width = width;
        tiles.tile_height = tile_height, tiles.tile_width = tile_width;
        tiles.across = (width + tile_width - 1) / tile_width;
        do {
            tiles.down = (height + tiles.tile_height - 1) / tiles.tile_height;
            tiles.count = (long)batch * tiles.across * tiles.down;
        } while (tiles.count < 4L * threads && tiles.tile_height > lowest && (tiles.tile_height /= 2));
        return tiles;
    }
    Tile tile(long number) const {
        Tile tile;
        tile.left = number % across * tile_width;
        tile.top = number / across % down * tile_height;
        tile.batch = number / across / down;
        tile.right = tile.left + tile_width < width ? tile.left + tile_width : width;
        tile.bottom = tile.top + tile_height < height ? tile.top + tile_height : height;
        return tile;
    }
};
