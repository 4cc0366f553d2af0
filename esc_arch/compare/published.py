"""The published numbers, to stand beside measured ones.

Latency and memory are the authors', on their GPU in float32 at an output of 1280 x 720 pixels;
multiply-adds are fvcore's count there.  PSNR in dB and SSIM are of the Y channel.

Source: ESC, arXiv 2503.06671, tables of comparison with other networks.
"""

from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["PUBLISHED", "SETS", "Published"]

SETS = ("Set5", "Set14", "B100", "Urban100", "Manga109")


class Published(NamedTuple):
    """One row.

    Attributes:
        latency_ms, memory_mb: on the authors' GPU.
        multiply_adds_g: in 10**9, with one digit after the point.
        parameters_k: in 10**3.
        psnr, ssim: by set; a value that was not published is missing.
    """

    latency_ms: float
    memory_mb: float
    multiply_adds_g: float
    parameters_k: int
    psnr: Mapping[str, float]
    ssim: Mapping[str, float]


# preset scale|latency memory multiply-adds parameters|PSNR/SSIM of each of SETS
_TABLE = """
swinir_light 2|1409.8 1287 244.2 910|38.14/.9611 33.86/.9206 32.31/.9012 32.76/.9340 39.12/.9783
elan_light 2|94.5 887 203.1 621|38.17/.9611 33.94/.9207 32.30/.9012 32.76/.9340 39.11/.9782
omnisr 2|120.3 1031 194.5 772|38.22/.9613 33.98/.9210 32.36/.9020 33.05/.9363 39.28/.9784
srformer_light 2|1456.3 1184 236.3 853|38.23/.9613 33.94/.9209 32.36/.9019 32.91/.9353 39.28/.9785
atd_light 2|733.5 2839 380.0 753|38.29/.9616 34.10/.9217 32.39/.9023 33.27/.9375 39.52/.9789
hit_srf 2|268.1 1804 226.5 847|38.26/.9615 34.01/.9214 32.37/.9023 33.13/.9372 39.47/.9787
mambairv2_light 2|580.4 2824 286.3 774|38.26/.9615 34.09/.9221 32.36/.9019 33.26/.9378 39.35/.9785
rcan 2|299.3 626 3529.7 15445|38.27/.9614 34.12/.9216 32.41/.9027 33.34/.9384 39.44/.9786
esc_fp 2|94.3 627 239.8 524|38.27/.9617 34.09/.9219 32.37/.9022 33.22/.9375 39.40/.9784
esc_light 2|73.2 830 359.4 603|38.24/.9615 33.98/.9211 32.35/.9020 33.05/.9363 39.33/.9786
esc 2|120.9 831 592.0 947|38.35/.9619 34.11/.9223 32.41/.9027 33.46/.9395 39.54/.9790
swinir_light 3|331.7 596 110.8 918|34.62/.9289 30.54/.8463 29.20/.8082 28.66/.8624 33.98/.9478
hit_srf 3|124.9 1464 101.6 855|34.75/.9300 30.61/.8475 29.29/.8106 28.99/.8687 34.53/.9502
esc_fp 3|34.8 291 110.0 530|34.72/.9300 30.67/.8483 29.30/.8107 29.12/.8706 34.56
esc_light 3|25.2 384 162.8 612|34.61/.9295 30.52/.8475 29.26/.8102 28.93/.8679 34.33/.9495
esc 3|41.4 385 267.6 955|34.84/.9308 30.74/.8493 29.34/.8118 29.28/.8739 34.66/.9512
swinir_light 4|222.9 351 63.6 930|32.44/.8976 28.77/.7858 27.69/.7406 26.47/.7980 30.92/.9151
elan_light 4|18.0 241 54.1 640|32.43/.8975 28.78/.7858 27.69/.7406 26.54/.7982 30.92/.9150
omnisr 4|22.5 273 50.9 792|32.49/.8988 28.78/.7859 27.71/.7415 26.64/.8018 31.02/.9151
srformer_light 4|287.2 329 62.8 873|32.51/.8988 28.82/.7872 27.73/.7422 26.67/.8032 31.17/.9165
atd_light 4|189.7 753 100.1 769|32.63/.8998 28.89/.7886 27.79/.7440 26.97/.8107 31.48/.9198
hit_srf 4|82.1 1331 58.0 866|32.55/.8999 28.87/.7880 27.75/.7432 26.80/.8069 31.26/.9171
mambairv2_light 4|153.4 748 75.6 790|32.51/.8992 28.84/.7878 27.75/.7426 26.82/.8079 31.24/.9182
esc_fp 4|21.7 158 60.8 539|32.56 28.87/.7889 27.75/.7435 26.90/.8098 31.40/.9192
esc_light 4|13.3 213 91.0 624|32.52/.8995 28.87/.7878 27.72/.7423 26.76/.8058 31.26/.9173
esc 4|21.9 215 149.2 968|32.68/.9011 28.93/.7902 27.80/.7447 27.07/.8144 31.54/.9207
"""


def _read(line: str) -> tuple[tuple[str, int], Published]:
    key, cost, quality = (part.split() for part in line.split("|"))
    latency, memory, multiply_adds, parameters = cost
    psnr, ssim = {}, {}
    for name, pair in zip(SETS, quality, strict=True):
        first, _, second = pair.partition("/")
        psnr[name] = float(first)
        if second:
            ssim[name] = float(second)
    numbers = (float(latency), float(memory), float(multiply_adds), int(parameters))
    return (key[0], int(key[1])), Published(*numbers, psnr, ssim)


# By preset and scale.
PUBLISHED: Mapping[tuple[str, int], Published] = dict(map(_read, _TABLE.strip().splitlines()))
