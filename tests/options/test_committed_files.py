"""Every option file of the repository is right and its network can be built."""

from pathlib import Path

import pytest
import torch
from basicsr.archs import build_network
from basicsr.models.base_model import BaseModel

from esc_arch import create, options
from esc_arch.archs.presets import PRESETS, build_meta

FOLDER = Path(__file__).parents[2] / "options"
FILES = sorted(FOLDER.rglob("*.yml"))
# What a file's name calls a network, and its preset.
NETWORKS = {"ESC": "esc", "ESC_light": "esc_light", "ESC_FP": "esc_fp", "ESC_DFLIP": "esc"}
PUBLISHED = [
    f"{task}_{net}_x{scale}.yml"
    for task in ("train", "test")
    for net in NETWORKS
    for scale in (2, 3, 4)
]
TEST_ONLY = {"test_ESC_XL_x2.yml": "esc_xl"}
# Networks to compare with, at which scales.
PEERS = {
    "SwinIR_light": ("swinir_light", (2, 3, 4)),
    "HiT_SRF": ("hit_srf", (2, 3, 4)),
    "ELAN_light": ("elan_light", (4,)),
    "OmniSR": ("omnisr", (4,)),
    "SRFormer_light": ("srformer_light", (4,)),
    "ATD_light": ("atd_light", (4,)),
    "MambaIRv2_light": ("mambairv2_light", (4,)),
    "RCAN": ("rcan", (4,)),
}
PEER_FILES = [(net, scale) for net, (_, scales) in PEERS.items() for scale in scales]


def test_the_published_recipes_are_there():
    assert {*PUBLISHED, *TEST_ONLY} <= {file.name for file in FOLDER.glob("*.yml")}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(FOLDER)))
def test_file_is_right(file):
    opt = options.read(str(file))
    options.check_structure(opt, str(file), is_train=file.name.startswith("train"))
    build_network(opt["network_g"])
    if file.parent == FOLDER:
        assert opt["name"] == file.stem
        assert "debug" not in opt["name"], "BasicSR's debug mode goes by the name"


@pytest.mark.parametrize("name", [*PUBLISHED, *TEST_ONLY])
def test_networks_are_the_presets(name):
    network = options.read(str(FOLDER / name))["network_g"]
    scale = int(name[-len("2.yml")])
    net = name.partition("_")[2].rpartition("_")[0]
    preset = PRESETS[TEST_ONLY.get(name) or NETWORKS[net]]
    kind = preset.network.__name__
    assert network == {"type": kind, "upscaling_factor": scale, **preset.arguments}
    assert scale in preset.scales


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name.startswith("train")])
def test_recipe_of_the_paper(name):
    opt = options.read(str(FOLDER / name))
    train, data = opt["train"], opt["datasets"]["train"]
    assert data["gt_size"] == 64 * opt["scale"]
    assert data["batch_size_per_gpu"] * 4 == 64
    assert train["optim_g"] == {"type": "AdamW", "lr": 5e-4, "weight_decay": 0, "betas": [0.9, 0.9]}
    assert train["scheduler"]["milestones"] == [250000, 400000, 450000, 475000, 490000]
    assert (train["total_iter"], train["warmup_iter"], train["ema_decay"]) == (500000, 20000, 0.999)
    starts_from = opt["path"]["pretrain_network_g"]
    if opt["scale"] == 2:
        assert starts_from is None
    else:
        x2 = options.read(str(FOLDER / f"{opt['name'][:-1]}2.yml"))
        assert starts_from == f"experiments/{x2['name']}/models/net_g_latest.pth"
        assert opt["path"]["param_key_g"] == "params_ema"


def test_recipe_of_the_paper_for_any_scale():
    opt = options.read(str(FOLDER / "train_ESC_LTE.yml"))
    train, data = opt["train"], opt["datasets"]["train"]
    assert (data["batch_size_per_gpu"], data["sample_q"], data["scale_range"]) == (32, 2304, [1, 4])
    # An epoch of 500 iterations, of 1000, and where the rate is halved.
    assert 800 * data["dataset_enlarge_ratio"] == 32 * 500
    assert train["total_iter"] == 1000 * 500
    assert train["scheduler"]["milestones"] == [epoch * 500 for epoch in (500, 800, 900, 950)]
    assert (train["scheduler"]["gamma"], train["pixel_opt"]["type"]) == (0.5, "L1Loss")
    assert train["optim_g"] == {"type": "Adam", "lr": 2e-4}
    network = opt["network_g"]
    assert network == {"type": "ESCLTE", **PRESETS["esc_lte"].arguments}

    test = options.read(str(FOLDER / "test_ESC_LTE.yml"))
    assert test["network_g"] == network
    assert (
        test["path"]["pretrain_network_g"] == f"experiments/{opt['name']}/models/net_g_latest.pth"
    )
    sets = ("Set5", "Set14", "B100", "Urban100", "Manga109")
    tested = {section["name"]: section for section in test["datasets"].values()}
    assert tested.keys() == {f"{name}_x{scale}" for name in sets for scale in (2, 3, 4, 6, 8)}
    for name, section in tested.items():
        assert name.endswith(f"_x{section['scale']}")
        assert (section["type"] == "PairedImageDataset") == (section["scale"] <= 4)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_dflip_makes_its_images_as_the_paper_did(scale):
    opt = options.read(str(FOLDER / f"train_ESC_DFLIP_x{scale}.yml"))
    data = opt["datasets"]["train"]
    assert (data["type"], data["downsampling"]) == ("DownsampleImageDataset", "pil_bicubic")
    assert len(data["dataroot_gt"]) == 4


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name.startswith("test")])
def test_test_files_take_the_trained_weights(name):
    opt = options.read(str(FOLDER / name))
    trained = options.read(str(FOLDER / name.replace("test", "train")))
    assert (
        opt["path"]["pretrain_network_g"]
        == f"experiments/{trained['name']}/models/net_g_latest.pth"
    )
    assert opt["network_g"] == trained["network_g"]


@pytest.mark.parametrize("name", [*(n for n in PUBLISHED if n.startswith("test")), *TEST_ONLY])
def test_evaluation_is_the_published_one(name):
    opt = options.read(str(FOLDER / name))
    assert opt["model_type"] == "ESRModel"
    sets = [section["name"] for section in opt["datasets"].values()]
    assert sets == ["Set5", "Set14", "B100", "Urban100", "Manga109"]
    for metric in opt["val"]["metrics"].values():
        assert (metric["crop_border"], metric["test_y_channel"]) == (opt["scale"], True)


@pytest.mark.parametrize(("net", "scale"), PEER_FILES)
def test_peers_have_the_presets_arguments(net, scale):
    preset = PRESETS[PEERS[net][0]]
    wanted = {"type": preset.network.__name__, preset.scale_argument: scale, **preset.arguments}
    for task in ("train", "test"):
        network = options.read(str(FOLDER / f"{task}_{net}_x{scale}.yml"))["network_g"]
        assert {k: tuple(v) if isinstance(v, list) else v for k, v in network.items()} == wanted
        text = (FOLDER / f"{task}_{net}_x{scale}.yml").read_text()
        count = sum(p.numel() for p in build_meta(PEERS[net][0], scale).parameters())
        assert f": {count:,} parameters\n" in text


@pytest.mark.parametrize(("net", "scale"), PEER_FILES)
def test_peers_are_trained_as_esc_is(net, scale):
    peer, esc = (options.read(str(FOLDER / f"train_{n}_x{scale}.yml")) for n in (net, "ESC"))
    paths = peer.pop("path"), esc.pop("path")
    models = peer.pop("model_type"), esc.pop("model_type")
    for opt in (peer, esc):
        del opt["name"], opt["network_g"]
    assert peer == esc
    # Only ESRModel pads the validation images, which SwinIR needs.
    assert models == ("ESRModel" if net == "SwinIR_light" else "SRModel", "SRModel")
    if scale > 2 and 2 in PEERS[net][1]:
        start = f"experiments/train_{net}_x2/models/net_g_latest.pth"
        assert paths[0] == {**paths[1], "pretrain_network_g": start, "strict_load_g": False}
    else:
        fresh = {"pretrain_network_g": None, "strict_load_g": True, "resume_state": None}
        assert paths[0] == fresh


@pytest.mark.parametrize(("net", "scale"), PEER_FILES)
def test_peers_are_tested_as_esc_is(net, scale):
    peer, esc = (options.read(str(FOLDER / f"test_{n}_x{scale}.yml")) for n in (net, "ESC"))
    assert peer["datasets"] == esc["datasets"]
    assert peer["val"] == esc["val"]
    assert peer["model_type"] == ("ESRModel" if net == "SwinIR_light" else "SRModel")
    trained = f"experiments/train_{net}_x{scale}/models/net_g_latest.pth"
    assert peer["path"] == {**esc["path"], "pretrain_network_g": trained}


def test_starting_from_x2_leaves_the_upsampler_alone(tmp_path):
    """BasicSR's own loading, with the options of train_SwinIR_light_x3.yml."""
    x2, x3 = create("swinir_light", 2), create("swinir_light", 3)
    file, fresh = tmp_path / "net_g_latest.pth", x3.upsample[0].weight.clone()
    torch.save({"params_ema": x2.state_dict()}, file)
    path = options.read(str(FOLDER / "train_SwinIR_light_x3.yml"))["path"]
    loader = BaseModel({"num_gpu": 0, "is_train": False})
    loader.load_network(x3, str(file), path["strict_load_g"], path["param_key_g"])
    assert torch.equal(x3.conv_first.weight, x2.conv_first.weight)
    assert torch.equal(x3.upsample[0].weight, fresh)
