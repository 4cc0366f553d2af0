#!/usr/bin/env bash
# Trains the shipped networks, the next step at each call; interrupted by SIGTERM it goes on.
#
#   nice -n 19 experiments/pretrained_models/train.sh [DATA]
#
# Run from the repository's root.  DATA holds photos_free/, train/, Set5/, Set14/ and B100/
# (default: ../shared/data).
set -euo pipefail
data=$(realpath "${1:-../shared/data}")
bin=.venv/bin
# Threads that spin while they wait take the cores from everybody else.
export OMP_WAIT_POLICY=PASSIVE
# Linux shares processors among sessions first: nice counts inside a session alone.
if [ -w /proc/$$/autogroup ]; then nice=$(nice); echo "$nice" > /proc/$$/autogroup 2> /dev/null || true; fi

clean=datasets/pretrained/clean
if [ ! -f "$clean/.prepared" ]; then
    [ -d datasets/demo/photos/train ] || "$bin/python" demo/extract_photos.py
    rm -rf "$clean"
    "$bin/python" experiments/pretrained_models/crops.py "$clean/crops" \
        "$data/photos_free" datasets/demo/photos/train "$data/train"
    "$bin/basicsr" data prepare "$clean/crops" --dest "$clean" --scales 2 3 4 --lmdb
    ln -sfn "$data" datasets/pretrained/benchmarks
    touch "$clean/.prepared"
fi

for name in esc_small_x2 esc_small_x3 esc_small_x4 esc_photo_x2 esc_photo_x4; do
    if [ -f "experiments/$name/models/net_g_latest.pth" ]; then
        echo "$name is trained."
        continue
    fi
    exec "$bin/basicsr" train -opt "options/pretrained/train_$name.yml" --auto_resume
done
