"""The ``basicsr`` command itself."""

import pytest

from esc_arch.cli import main as cli
from esc_arch.errors import UserError


@pytest.mark.parametrize("arguments", [[], *([name] for name in cli.COMMANDS)])
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


@pytest.mark.parametrize("arguments", [["fly"], ["train"], ["train", "-opt"], []])
def test_a_wrong_command_line_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == 2


def test_a_user_error_is_printed_without_a_traceback(monkeypatch, capsys):
    def fail(args):
        raise UserError("x.yml: key: expected this; found that.")

    monkeypatch.setattr(cli.COMMANDS["nets"], "run", fail)
    assert cli.main(["nets"]) == 2
    assert capsys.readouterr().err == "basicsr: x.yml: key: expected this; found that.\n"
