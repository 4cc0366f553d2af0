"""The checks of an option file, each of which lists all that it finds in one error."""

from collections.abc import Mapping

from esc_arch.options.checkpoints import inspect_checkpoints
from esc_arch.options.data_files import inspect_data
from esc_arch.options.loss_files import inspect_loss_files
from esc_arch.options.machine import inspect_machine
from esc_arch.options.problems import Problems
from esc_arch.options.run import Run
from esc_arch.options.structure import inspect_structure


def check(opt: Mapping[str, object], source: str, run: Run) -> None:
    """All checks; see the three below.

    Raises:
        UserError: listing every problem.  Files are looked at where the sections that
            name them have none.
    """
    problems = Problems(source)
    inspect_structure(problems, opt, run.is_train)
    inspect_machine(problems, opt, run)
    _inspect_files(problems, opt, run)
    problems.raise_if_any()


def check_structure(opt: Mapping[str, object], source: str, is_train: bool) -> None:
    """Check what needs neither data nor a particular machine.

    Args:
        opt: the option file's content, as :func:`esc_arch.options.read` returns it.
        source: the file's name, for the message.
        is_train: whether it is to be trained with, rather than tested.

    Raises:
        UserError: listing every problem.
    """
    problems = Problems(source)
    inspect_structure(problems, opt, is_train)
    problems.raise_if_any()


def check_machine(opt: Mapping[str, object], source: str, run: Run) -> None:
    """Check GPUs, launcher and packages; see :func:`check_structure`."""
    problems = Problems(source)
    inspect_machine(problems, opt, run)
    problems.raise_if_any()


def check_files(opt: Mapping[str, object], source: str, run: Run) -> None:
    """Check the files that a structurally right file names: data, checkpoints, losses' weights.

    Raises:
        UserError: listing every problem.
    """
    problems = Problems(source)
    _inspect_files(problems, opt, run)
    problems.raise_if_any()


def _inspect_files(problems: Problems, opt: Mapping[str, object], run: Run) -> None:
    inspect_data(problems, opt, run)
    inspect_checkpoints(problems, opt, run)
    if run.is_train:
        inspect_loss_files(problems, opt)
