"""Packaging of esc-arch.  Install torch first: see the README's first section."""

import json
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
KERNELS = "esc_arch/fast/kernels"
KERNEL_SOURCES = (
    "aggregate",
    "attention_layer",
    "conv_ffn",
    "symmetric_conv",
    "threads",
    "window_attention",
    "window_attention_backward",
)
# What comes with the package: SHIPPED.json alone says which, as a user's own files lie there too.
WEIGHTS = "experiments/pretrained_models"
WEIGHTS_INSTALLED = "esc_arch/checkpoints/shipped_files"
VERSION = {}
exec((ROOT / "esc_arch" / "version.py").read_text(), VERSION)


def shipped_files() -> list[str]:
    """The list of shipped models, the models and their cards, by path from here."""
    names = json.loads((ROOT / WEIGHTS / "SHIPPED.json").read_text(encoding="utf-8"))["sha256"]
    files = [f"{name}.{ending}" for name in sorted(names) for ending in ("safetensors", "md")]
    return [f"{WEIGHTS}/{name}" for name in ["SHIPPED.json", *files]]


class BuildWithWeights(build_py):
    """Puts the shipped models into the package; an editable one finds them in the repository."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            self.mkpath(str(Path(self.build_lib, WEIGHTS_INSTALLED)))
            for source, target in zip(shipped_files(), self._installed(), strict=True):
                self.copy_file(str(ROOT / source), target)

    def get_outputs(self, include_bytecode: int = 1) -> list[str]:
        own = [] if self.editable_mode else self._installed()
        return [*super().get_outputs(include_bytecode), *own]

    def get_source_files(self) -> list[str]:
        return [*super().get_source_files(), *shipped_files()]

    def _installed(self) -> list[str]:
        folder = Path(self.build_lib, WEIGHTS_INSTALLED)
        return [str(folder / Path(source).name) for source in shipped_files()]


setup(
    name="esc-arch",
    version=VERSION["__version__"],
    description="ESC efficient image super-resolution as a BasicSR plug-in",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.13",  # basicsr 1.4.2 does not build on 3.13
    packages=find_packages(include=["esc_arch", "esc_arch.*"]),
    package_data={
        "esc_arch": ["py.typed"],  # type checkers read the package's own types
        "esc_arch.data": ["public_sets.yml"],
        "esc_arch.options": ["templates/*.yml"],  # texts of the recipes
    },
    cmdclass={"build_py": BuildWithWeights},
    # Without a compiler the package works too, slower on a CPU.
    ext_modules=[
        Extension(
            "esc_arch.fast.kernels._kernels",
            sources=[f"{KERNELS}/{name}.cpp" for name in KERNEL_SOURCES],
            depends=[str(path) for path in (ROOT / KERNELS).glob("*.[hi]*")],
            extra_compile_args=["-O3", "-std=c++17", "-Wno-psabi", "-Wno-maybe-uninitialized"],
            extra_link_args=["-pthread"],
            optional=True,
        )
    ],
    install_requires=[
        "torch>=2.6,<2.16",
        "torchvision",  # basicsr's degradations and VGG
        "basicsr==1.4.2",  # the training, testing and data pipeline
        "einops",  # window partition, scale transfer
        "filelock>=4",  # one process at a time in a folder, on every system
        "lmdb",  # BasicSR's LMDB back-end
        "numpy",
        "opencv-python",  # image files, as BasicSR reads them
        "pydantic>=2.9,<3",  # models of the option file's sections
        "pillow",  # sizes from file headers, bicubic LR images
        "pyyaml",  # option files
        "requests",  # downloads
        "rich",  # tables and progress of the command line
        "safetensors",  # checkpoints that cannot hold code
        "tifffile",  # TIFF files of any layout and depth
    ],
    extras_require={
        "compare": [
            "matplotlib",  # pictures of the report
            "spandrel>=0.4.2,<0.5",  # ATD, OmniSR, checkpoints of other networks
            "spandrel_extra_arches>=0.2,<0.3",  # SRFormer
        ],
        "demo": [
            "matplotlib",  # curves of the demo run
            "scikit-image",  # the photographs of the demo
        ],
        "export": [
            "onnx>=1.17,<2",  # ONNX files, and tensors that lie beside them
            "onnxruntime>=1.20,<2",  # checks and runs them
            "onnxscript>=0.5,<1",  # torch.onnx's translation
        ],
        "test": [
            "esc-arch[compare,export]",
            "fvcore",  # its count of multiply-adds, which ours must equal
            "hypothesis",
            "jsonschema",  # reads the schema of option files as editors do
            "mypy",
            "openvino",  # loads the exported files beside onnxruntime
            "pytest",
            "pytest-xdist",  # two tests at a time
            "ruff",
            "types-PyYAML",
            "types-requests",
        ],
    },
    entry_points={"console_scripts": ["basicsr=esc_arch.cli.main:main"]},
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Image Processing",
    ],
)
