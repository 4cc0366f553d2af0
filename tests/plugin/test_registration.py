"""Registering beside BasicSR and beside other plug-ins."""

import json

import pytest
from basicsr.archs import build_network
from basicsr.utils.registry import ARCH_REGISTRY, DATASET_REGISTRY, MODEL_REGISTRY
from torch import nn

import esc_arch
from esc_arch.plugin.registration import register_arch, register_dataset, register_model
from tests import tiny
from tests.run_python import output_of, start_python

SMALL = tiny.network(dim=4, pdim=2, kernel_size=3, window_size=2, num_heads=1)

# Imports of esc_arch in one process: the first one; again; reloaded; and once more,
# after BasicSR and after a plug-in that has an ESC of its own.
IMPORTS = """
    import importlib, json, logging, sys

    class Warnings(logging.Handler):
        def emit(self, record):
            warnings.append(f"{record.levelname}: {record.getMessage()}")

    warnings = []
    logging.getLogger("basicsr").addHandler(Warnings())
    facts = {}

    import esc_arch
    import basicsr
    from basicsr import train
    from basicsr.archs import build_network
    from basicsr.utils import FileClient
    from basicsr.utils.registry import ARCH_REGISTRY

    facts["registered"] = ARCH_REGISTRY.get("ESC") is esc_arch.ESC
    first = esc_arch.ESC
    importlib.reload(esc_arch)
    importlib.reload(esc_arch.plugin.workarounds)
    esc_arch.plugin.workarounds.before_basicsr()
    esc_arch.plugin.workarounds.after_basicsr()
    facts["after reload"] = ARCH_REGISTRY.get("ESC") is first is esc_arch.ESC
    facts["resume"] = train.load_resume_state.__module__

    def forget():
        for name in [n for n in sys.modules if n.split(".")[0] == "esc_arch"]:
            del sys.modules[name]

    forget()
    import esc_arch
    facts["imported again"] = ARCH_REGISTRY.get("ESC") is first
    with esc_arch.plugin.workarounds.recorded_reads() as reads:
        FileClient("disk").get(json.__file__)
    facts["reads"] = [read.name == json.__file__ for read in reads]
    facts["silent"] = list(warnings)

    forget()
    del ARCH_REGISTRY._obj_map["ESC"]
    other = type("ESC", (first,), {"__module__": "other_plugin.archs"})
    ARCH_REGISTRY.register(other)
    import esc_arch
    facts["other kept"] = ARCH_REGISTRY.get("ESC") is other
    facts["ours is apart"] = esc_arch.ESC is not other
    facts["built"] = type(build_network(json.loads(sys.argv[1]))) is other
    facts["warnings"] = warnings
    print("FACTS" + json.dumps(facts))
"""


@pytest.fixture(scope="module")
def facts():
    return json.loads(output_of(start_python(IMPORTS, json.dumps(SMALL))).rpartition("FACTS")[2])


def test_import_registers_the_network(facts):
    assert facts["registered"]


def test_import_may_happen_again(facts):
    assert facts["after reload"]
    assert facts["imported again"]
    assert facts["resume"] == "esc_arch.plugin.workarounds"
    assert facts["reads"] == [True]
    assert facts["silent"] == []


def test_network_of_another_plugin_is_kept(facts):
    assert facts["other kept"]
    assert facts["built"]
    assert facts["ours is apart"]


def test_one_warning_says_whose_network_is_kept(facts):
    (warning,) = facts["warnings"]
    assert warning.startswith("WARNING: ")
    assert "ESC" in warning
    assert "other_plugin.archs" in warning
    assert "esc_arch.archs.esc_arch" in warning


def test_basicsr_builds_the_registered_network():
    assert type(build_network(dict(SMALL))) is esc_arch.ESC


@pytest.fixture
def spare_registry(monkeypatch):
    monkeypatch.setattr(ARCH_REGISTRY, "_obj_map", dict(ARCH_REGISTRY._obj_map))


def test_decorator_gives_the_class_back(spare_registry):
    class Unheard(nn.Module):
        pass

    assert register_arch(Unheard) is Unheard
    assert ARCH_REGISTRY.get("Unheard") is Unheard


def test_a_network_of_basicsr_is_kept(spare_registry, said):
    theirs = ARCH_REGISTRY.get("SwinIR")
    ours = type("SwinIR", (nn.Module,), {"__module__": "esc_arch.archs.swinir_arch"})
    assert register_arch(ours) is ours
    assert ARCH_REGISTRY.get("SwinIR") is theirs
    ((level, message),) = said
    assert level == "WARNING"
    assert "basicsr.archs.swinir_arch" in message


@pytest.mark.parametrize(
    ("register", "registry", "taken", "kind"),
    [
        (register_dataset, DATASET_REGISTRY, "PairedImageDataset", "dataset"),
        (register_model, MODEL_REGISTRY, "SRModel", "model"),
    ],
)
def test_datasets_and_models_follow_the_same_rule(
    monkeypatch, said, register, registry, taken, kind
):
    monkeypatch.setattr(registry, "_obj_map", dict(registry._obj_map))
    theirs = registry.get(taken)
    free, ours = (type(name, (), {"__module__": "esc_arch.new"}) for name in ("Unheard", taken))
    assert register(free) is free and registry.get("Unheard") is free
    assert register(free) is free and said == []
    assert register(ours) is ours and registry.get(taken) is theirs
    ((level, message),) = said
    assert level == "WARNING" and f"The {kind} {taken} is registered by basicsr" in message
