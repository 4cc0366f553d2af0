"""Table of the public image sets of super-resolution: addresses, checksums, folders, terms.

Only addresses that many public projects use are here, with the sizes and checksums that
public projects record; the comments say which.
"""

from dataclasses import dataclass
from urllib.parse import urlsplit

from esc_arch.errors import UserError


@dataclass(frozen=True)
class Folder:
    """A folder of an archive, and where the option files look for it.

    Attributes:
        archive: its path in the archive.
        destination: its path below the folder of all sets.
        images_in: where in it the HR images lie, or its only images.
        images: how many lie there.
    """

    archive: str
    destination: str
    images_in: str
    images: int


@dataclass(frozen=True)
class Archive:
    """A file to download.

    Attributes:
        size: in bytes; None where no source records it.
        sha256: in hex; None where no source records it.
        md5: in hex.
        about: size, roughly, where no source records it; for display.
    """

    url: str
    folders: tuple[Folder, ...]
    md5: str
    sha256: str | None = None
    size: int | None = None
    about: int | None = None

    @property
    def name(self) -> str:
        return urlsplit(self.url).path.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class PublicSet:
    """A set of images, to be downloaded by this command or by hand.

    Attributes:
        name: on the command line.
        images: how many there are, and of which kind.
        terms: who may use it, and where that is said.
        archives: what to download; empty where there is no certain address.
        by_hand: how to get it then.
        folder: of its images then, below the folder of all sets.
    """

    name: str
    images: str
    terms: str
    archives: tuple[Archive, ...] = ()
    by_hand: str = ""
    folder: str = ""


_DIV2K_URL = "https://data.vision.ee.ethz.ch/cvl/DIV2K/"
_DIV2K_TERMS = f"academic research only: {_DIV2K_URL}"
_EDSR_URL = "https://cv.snu.ac.kr/research/EDSR/"


def _div2k(
    folder: str, images: int, md5: str, size: int | None = None, sha256: str | None = None
) -> PublicSet:
    """One archive of DIV2K; ``DIV2K_train_LR_bicubic/X2`` lies in ..._bicubic_X2.zip."""
    name = folder.replace("/", "_")
    kind = "HR" if folder.endswith("HR") else f"bicubic LR x{folder[-1]}"
    place = Folder(folder, f"DIV2K/{folder}", "", images)
    archive = Archive(f"{_DIV2K_URL}{name}.zip", (place,), md5, sha256, size)
    return PublicSet(name, f"{images} {kind}", _DIV2K_TERMS, (archive,))


# md5 of all: torchSR (torchsr/datasets/div2k.py) and leverxgroup/esrgan
# (esrgan/dataset/div2k.py) record the same.
# Sizes and sha256: tensorflow/datasets, tensorflow_datasets/url_checksums/div2k.txt.
_DIV2K = (
    _div2k(
        "DIV2K_train_HR",
        800,
        "bdc2d9338d4e574fe81bf7d158758658",
        3_530_603_713,
        "9d0b9c463f6e35b6c62cc6a930ee2224f670b34c1df841a57670f9acf0f6c335",
    ),
    _div2k(
        "DIV2K_train_LR_bicubic/X2",
        800,
        "9a637d2ef4db0d0a81182be37fb00692",
        925_390_592,
        "a53a424317575838dadce4bcd97cf7b744d6855f43740ed5f0245af3cf4bd850",
    ),
    _div2k("DIV2K_train_LR_bicubic/X3", 800, "ad80b9fe40c049a07a8a6c51bfab3b6d"),
    _div2k("DIV2K_train_LR_bicubic/X4", 800, "76c43ec4155851901ebbe8339846d93d"),
    _div2k(
        "DIV2K_valid_HR",
        100,
        "9fcdda83005c5e5997799b69f955ff88",
        448_993_893,
        "20dd31fd84d777bc1cf5d6b7654a3f569c0aec74458ae094122ad1d0489900fc",
    ),
    _div2k(
        "DIV2K_valid_LR_bicubic/X2",
        100,
        "1512c9a3f7bde2a1a21a73044e46b9cb",
        117_763_600,
        "60eed9875c697df51204aa579e2a699e1d5215095788a097ff54dd17e2664d57",
    ),
    _div2k("DIV2K_valid_LR_bicubic/X3", 100, "18b1d310f9f88c13618c287927b29898"),
    _div2k("DIV2K_valid_LR_bicubic/X4", 100, "21962de700c8d368c6ff83314480eff0"),
)

# md5 and folders: torchSR (torchsr/datasets/benchmarks.py).  Size: the README of EDSR-PyTorch.
_BENCHMARK = Archive(
    f"{_EDSR_URL}benchmark.tar",
    tuple(
        Folder(f"benchmark/{name}", name, "HR", images)
        for name, images in {"Set5": 5, "Set14": 14, "B100": 100, "Urban100": 100}.items()
    ),
    "4ace41d33c2384b97e6b320cd0afd6ba",
    about=250_000_000,
)

# md5 and folders: torchSR (torchsr/datasets/flickr2k.py).
_FLICKR2K = Archive(
    f"{_EDSR_URL}Flickr2K.tar",
    (Folder("Flickr2K", "Flickr2K", "Flickr2K_HR", 2650),),
    "5d3f39443d5e9489bff8963f8f26cb03",
)

PUBLIC_SETS = (
    PublicSet(
        "DIV2K",
        "all eight below",
        _DIV2K_TERMS,
        tuple(archive for part in _DIV2K for archive in part.archives),
    ),
    *_DIV2K,
    PublicSet(
        "benchmark",
        "Set5, Set14, B100, Urban100: 219 HR, bicubic LR",
        "those of each set's authors; see https://github.com/sanghyun-son/EDSR-PyTorch",
        (_BENCHMARK,),
    ),
    PublicSet(
        "Flickr2K",
        "2650 HR, bicubic LR",
        "none stated; from https://github.com/limbee/NTIRE2017",
        (_FLICKR2K,),
    ),
    PublicSet(
        "Manga109",
        "109 HR",
        "see http://www.manga109.org/en/",
        by_hand="Register and ask for it at http://www.manga109.org/en/. The benchmark has "
        "109 of its pages; the LR images are made from them with MATLAB's bicubic downscaling.",
        folder="Manga109/HR",
    ),
    PublicSet(
        "LSDIR",
        "84991 HR",
        "see https://ofsoundof.github.io/lsdir-data/",
        by_hand="Download it as https://ofsoundof.github.io/lsdir-data/ says, in parts, and "
        "extract them.",
        folder="LSDIR/HR",
    ),
    PublicSet(
        "DiverSeg_IP",
        "about 527000 HR",
        "non-commercial research and education, as ImageNet",
        by_hand="It is a choice from ImageNet (https://image-net.org) and PASS "
        "(https://www.robots.ox.ac.uk/~vgg/data/pass/), made by the script of "
        "https://github.com/gohtanii/DiverSeg-dataset.",
        folder="DiverSeg_IP/HR",
    ),
    PublicSet(
        "OST",
        "10324 HR",
        "none stated: https://github.com/xinntao/SFTGAN",
        by_hand="Follow https://github.com/xinntao/SFTGAN#ost-dataset (OutdoorSceneTraining).",
        folder="DF2K/OST",
    ),
    PublicSet(
        "DF2K",
        "3450 HR and smaller copies",
        "those of DIV2K and Flickr2K",
        by_hand="Download DIV2K_train_HR and Flickr2K, then make smaller copies, pieces and the "
        "meta_info list as the head of options/train_ESC_Real_x4_mse.yml says.",
        folder="DF2K",
    ),
)


def find(name: str) -> PublicSet:
    """The set of a name, or the one that has a folder of this name, such as Set5.

    Args:
        name: upper or lower case.

    Raises:
        UserError: when there is none.
    """
    wanted = name.casefold()
    for public_set in PUBLIC_SETS:
        if public_set.name.casefold() == wanted:
            return public_set
    for public_set in PUBLIC_SETS:
        folders = [folder for archive in public_set.archives for folder in archive.folders]
        if wanted in [folder.destination.casefold() for folder in folders]:
            return public_set
    raise UserError(
        f"{name}: expected one of {', '.join(s.name for s in PUBLIC_SETS)}; found no set of this "
        "name. Run `basicsr data download` to list them."
    )
