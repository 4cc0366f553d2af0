"""The ``basicsr`` command itself."""

import pytest

from esc_arch.cli import compare, data, nets, options, weights
from esc_arch.cli import main as cli
from esc_arch.errors import UserError
from tests.run_python import output_of, start_python


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        *([name] for name in cli.COMMANDS),
        *(["compare", name] for name in compare.COMMANDS),
        *(["data", name] for name in data.COMMANDS),
        *(["weights", name] for name in weights.COMMANDS),
        *(["options", name] for name in options.COMMANDS),
    ],
)
def test_help_everywhere(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([*arguments, "--help"])
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith("usage: basicsr")


def test_nets_lists_presets_with_published_parameter_counts(capsys):
    assert cli.main(["nets"]) == 0
    printed = capsys.readouterr().out
    for count in ("946,728", "955,383", "967,500", "603,600", "612,255", "624,372", "12,455,916"):
        assert count in printed
    assert "SwinIR" in printed


def test_the_listed_networks_are_those_that_are_built():
    from basicsr.utils.registry import ARCH_REGISTRY

    from esc_arch.archs import public_network
    from esc_arch.archs.presets import PRESETS, build_meta

    built = {
        name: (
            preset.network.__name__,
            {s: sum(p.numel() for p in build_meta(name, s).parameters()) for s in preset.scales},
        )
        for name, preset in PRESETS.items()
    }
    assert {name: listed[:2] for name, listed in nets.PRESETS.items()} == built
    assert nets.INSTALL == public_network.INSTALL
    registered = {name.removesuffix("_basicsr") for name in ARCH_REGISTRY._obj_map}
    theirs = nets.basicsr_networks()
    assert theirs <= registered and {"EDSR", "RRDBNet", "SwinIR"} <= theirs


@pytest.mark.parametrize(
    "arguments", [["fly"], ["train"], ["train", "-opt"], ["data"], ["data", "fly"], []]
)
def test_a_wrong_command_line_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == 2


def test_a_user_error_is_printed_without_a_traceback(monkeypatch, capsys):
    def fail(args):
        raise UserError("x.yml: key: expected this; found that.")

    monkeypatch.setattr(nets, "run", fail)
    assert cli.main(["nets"]) == 2
    assert capsys.readouterr().err == "basicsr: x.yml: key: expected this; found that.\n"


def test_a_mistaken_path_is_found_without_pytorch(tmp_path):
    code = """
        import sys
        from esc_arch.cli.main import main
        assert main(sys.argv[1:]) == 2
        print("LOADED", {"torch", "basicsr"} & set(sys.modules))
    """
    folder = str(tmp_path / "none")
    for arguments in (["--all", folder], ["esc", "--all", str(tmp_path)], ["esk"], []):
        printed = output_of(start_python(code, "options", "new", *arguments))
        assert printed.endswith("LOADED set()\n"), printed


def test_what_needs_no_network_starts_without_pytorch():
    code = """
        import sys
        from esc_arch.cli.main import main
        try:
            main(sys.argv[1:])
        except SystemExit:
            pass
        print("LOADED", {"torch", "basicsr"} & set(sys.modules))
    """
    for arguments in (
        [],
        ["compare"],
        ["weights"],
        ["data", "prepare"],
        ["data", "verify"],
        ["data", "download"],
        ["options"],
        *(["options", name] for name in options.COMMANDS),
    ):
        printed = output_of(start_python(code, *arguments, "--help"))
        assert printed.endswith("LOADED set()\n"), printed
    printed = output_of(start_python(code, "nets"))
    assert "RRDBNet" in printed and printed.endswith("LOADED set()\n"), printed
