"""Option files of other public releases, in the words of this package.

Their models train as SRModel does, and differ in how they test.
"""

from collections.abc import Mapping
from typing import Any

from basicsr.utils.registry import ARCH_REGISTRY, MODEL_REGISTRY

from esc_arch.options.constructors import parameters_of, registered
from esc_arch.options.datasets import PAIRED, SINGLE

# Models of public releases by those that test as they do.
ALIASES: Mapping[str, str] = {
    "ATDModel": "SRModel",
    "HATModel": "ESRModel",
    "HITModel": "SectionsModel",
    "DATModel": "SectionsModel",
    **dict.fromkeys(
        ("MambaIRModel", "MambaIRv2Model", "MambaIRv2LightModel"), "TenthSectionsModel"
    ),
}

# Arguments of networks that cost or save memory, and change no result.
_WITHOUT_EFFECT = ("use_checkpoint",)
_ROOTS = ("dataroot_gt", "dataroot_lq")


def adopted(opt: Mapping[str, Any]) -> dict[str, Any]:
    """An option file's content with what runs for what the release calls its own.

    A model that is registered stays; a list of one folder is that folder; an argument without
    influence on results that the network here lacks is left out.  Other parts are shared.
    """
    opt = dict(opt)
    model = opt.get("model_type")
    if isinstance(model, str) and registered(MODEL_REGISTRY, model) is None:
        opt["model_type"] = ALIASES.get(model, model)
    for key, section in opt.items():
        if str(key).startswith("network_") and isinstance(section, dict):
            opt[key] = _network(section)
    datasets = opt.get("datasets")
    if isinstance(datasets, dict):
        opt["datasets"] = {
            phase: _dataset(section) if isinstance(section, dict) else section
            for phase, section in datasets.items()
        }
    return opt


def _network(section: dict[Any, Any]) -> dict[Any, Any]:
    network = registered(ARCH_REGISTRY, section.get("type"))
    if network is None:
        return section
    known, takes_any = parameters_of(network)
    left_out = () if takes_any else [name for name in _WITHOUT_EFFECT if name not in known]
    return {
        name: value
        for name, value in section.items()
        if name not in left_out or not isinstance(value, bool)
    }


def _dataset(section: dict[Any, Any]) -> dict[Any, Any]:
    if section.get("type") not in (PAIRED, SINGLE):
        return section
    return {
        name: value[0] if name in _ROOTS and isinstance(value, list) and len(value) == 1 else value
        for name, value in section.items()
    }
