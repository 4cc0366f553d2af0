"""``basicsr options new``, and the committed files, which are what it prints."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from esc_arch import options
from esc_arch.archs.presets import PRESETS
from esc_arch.cli.main import main
from esc_arch.errors import UserError
from esc_arch.options.recipes import RECIPES, names, recipe, write_all

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "options"


def test_the_committed_files_are_those_of_the_recipes(tmp_path):
    written = write_all(tmp_path)
    committed = {file.name: file.read_bytes() for file in FOLDER.glob("*.yml")}
    assert {file.name: file.read_bytes() for file in written} == committed


@pytest.mark.parametrize("file", sorted(FOLDER.rglob("*.yml")), ids=lambda file: file.stem)
def test_every_file_names_the_schema_for_editors(file):
    first = file.read_text(encoding="utf-8").partition("\n")[0]
    start, _, path = first.partition("=")
    assert start == "# yaml-language-server: $schema"
    assert (file.parent / path).resolve() == FOLDER / "schema.json"


@pytest.mark.parametrize("test", [False, True])
@pytest.mark.parametrize("name", ["esc_light", "esc_dflip", "elan_light", "rcan"])
def test_scales_beyond_the_committed_ones(name, test):
    preset = PRESETS[RECIPES[name].preset]
    for scale in preset.scales:
        stem, text = recipe(name, scale, test)
        opt = yaml.safe_load(text)
        options.check_structure(opt, stem, is_train=not test)
        assert opt["name"] == stem
        assert opt["scale"] == opt["network_g"][preset.scale_argument] == scale
        assert "$" not in text.partition("\n")[2]


def test_a_recipe_passes_the_check_apart_from_its_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stem, text = recipe("esc", 2)
    with pytest.raises(UserError) as caught:
        options.check(yaml.safe_load(text), stem, options.Run(is_train=True))
    lines = [line for line in str(caught.value).splitlines() if line.startswith("  ")]
    assert lines
    assert all(". datasets." in line for line in lines), lines


def test_the_command_prints_the_file(capsys):
    assert main(["options", "new", "esc", "--scale", "3", "--test"]) == 0
    assert capsys.readouterr().out == (FOLDER / "test_ESC_x3.yml").read_text(encoding="utf-8")
    assert main(["options", "new", "esc_real_gan", "--scale", "4"]) == 0
    expected = (FOLDER / "train_ESC_Real_x4_gan.yml").read_text(encoding="utf-8")
    assert capsys.readouterr().out == expected


@pytest.mark.parametrize(("name", "file"), [("esc", "ESC_x2"), ("esc_real_mse", "ESC_Real_x4_mse")])
def test_the_scale_is_2_where_there_is_such_a_recipe(name, file, capsys):
    assert main(["options", "new", name]) == 0
    expected = (FOLDER / f"train_{file}.yml").read_text(encoding="utf-8")
    assert capsys.readouterr().out == expected


def test_files_of_the_user_are_not_replaced_unasked(tmp_path, capsys):
    mine = tmp_path / "train_ESC_x2.yml"
    mine.write_text("mine")
    assert main(["options", "new", "--all", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "found train_ESC_x2.yml with another content" in said and "--overwrite" in said
    assert [file.read_text() for file in tmp_path.iterdir()] == ["mine"]
    assert main(["options", "new", "--all", str(tmp_path), "--overwrite"]) == 0
    assert mine.read_bytes() == (FOLDER / mine.name).read_bytes()
    # Files that are the same are no reason to stop.
    assert main(["options", "new", "--all", str(tmp_path)]) == 0
    assert {file.name for file in tmp_path.iterdir()} == {
        file.name for file in FOLDER.glob("*.yml")
    }


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (["new", "esc_lite"], ("a recipe of training", "found 'esc_lite'", "'esc_lte'?")),
        (["new", "esc_xl"], ("a recipe of training", "found 'esc_xl'")),
        (
            ["new", "nonsense"],
            ("a recipe of training", "found 'nonsense'", "esc_light, esc_lte, esc_real_gan"),
        ),
        (["new", "esc", "--scale", "5"], ("--scale: expected 2 or 3 or 4", "found 5")),
        (["new", "esc_lte", "--scale", "2"], ("--scale: esc_lte: expected none", "found 2")),
        (["new", "esc_real_mse", "--scale", "2"], ("--scale: expected 4", "found 2")),
        (["new"], ("expected a recipe: esc, esc_light",)),
        (["new", "--all", "none"], ("--all none: expected a folder",)),
        (["new", "esc", "--all", "."], ("--all .: expected no recipe", "found esc.")),
        (["new", "--all", ".", "--test"], ("--all .: expected no recipe", "found --test.")),
        (
            ["new", "esc", "--scale", "2", "--all", "."],
            ("--all .: expected no recipe", "found esc, --scale."),
        ),
        (["new", "esc", "--overwrite"], ("--overwrite: expected --all",)),
    ],
)
def test_mistakes(arguments, fragments, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["options", *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert all(fragment in said.err for fragment in fragments), said.err


def test_every_recipe_of_training_has_one_of_testing():
    trained = {name for name in names() if not name.startswith("esc_real")}
    assert trained < set(names(test=True))


def test_commands_without_options_do_not_import_pydantic():
    code = (
        "import sys; from esc_arch.cli.main import main; import esc_arch.upscale;"
        "import esc_arch.checkpoints, esc_arch.cli.upscale, esc_arch.cli.nets, esc_arch.cli.runs;"
        "assert 'pydantic' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


@pytest.mark.slow
def test_an_installed_package_has_the_recipes(tmp_path):
    """The package as a wheel holds it, away from the repository."""
    built = tmp_path / "built"
    build = [sys.executable, "setup.py", "-q", "build_py", "-d", str(built)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=300)
    command = [sys.executable, "-m", "esc_arch", "options", "new", "esc_light", "--scale", "4"]
    environment = {**os.environ, "PYTHONPATH": str(built)}
    ran = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert ran.stdout == (FOLDER / "train_ESC_light_x4.yml").read_text(encoding="utf-8"), ran.stderr
