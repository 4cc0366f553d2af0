"""What is read from BasicSR's training logs."""

from pathlib import Path

import pytest

from esc_arch.training.log_reader import read_logs


def test_logs_of_a_resumed_run_count_each_iteration_once(tmp_path: Path):
    def step(iteration: int, loss: str) -> str:
        return (
            f"2026-01-01 00:00:00,000 INFO: [ESC_d..][epoch:  0, iter:{iteration:8,d}, "
            f"lr:(1.000e-03,)] [eta: 0:00:10, time (data): 0.1 (0.0)] l_pix: {loss} \n"
        )

    def validation(psnr: str) -> str:
        return f"2026 INFO: Validation demo\n\t # psnr: {psnr}\tBest: 40.0000 @ 1 iter\n\n"

    first, second = tmp_path / "train_1.log", tmp_path / "train_2.log"
    first.write_text(
        step(500, "5.0000e-02")
        + validation("30.0000")
        + step(1000, "4.0000e-02")
        + validation("31.0000")
        + step(1500, "9.0000e-02")  # done again after resuming
        + validation("20.0000")
    )
    second.write_text(
        "INFO: Resuming training from epoch: 0, iter: 1000.\n"
        + step(1500, "3.0000e-02")
        + validation("32.0000")
        + step(1750, "2.0000e-02")
        + "INFO: End of training. Time consumed: 0:00:10\n"
        + validation("33.0000")
    )
    history = read_logs([first, second])
    assert history.loss == {500: 0.05, 1000: 0.04, 1500: 0.03, 1750: 0.02}
    assert history.psnr == {500: 30, 1000: 31, 1500: 32, 1750: 33}


def line(seconds: float, text: str) -> str:
    whole = int(seconds)
    stamp = f"2026-01-01 23:{whole // 60:02d}:{whole % 60:02d},{round(seconds % 1 * 1000):03d}"
    return f"{stamp} INFO: {text}\n"


def step(iteration: int, loss: str) -> str:
    return f"[compa..][epoch:  0, iter:{iteration:8,d}, lr:(1.0e-03,)] [eta: 0] l_pix: {loss} "


START = "Training statistics:\n\tTotal epochs: 1; iters: 30."
VALIDATION = "Validation {}\n\t # psnr: {}\tBest: 40.0000 @ 1 iter\n\t # ssim: 0.9000\n"


def test_minutes_run_on_where_a_killed_run_was_saved(tmp_path: Path):
    first, second = tmp_path / "train_1.log", tmp_path / "train_2.log"
    first.write_text(
        line(0, START)
        + line(60, "Start training from epoch: 0, iter: 0")
        + line(120, step(10, "5.0e-02"))
        + line(126, "Saving models and training states.")
        + line(150, VALIDATION.format("Set5", "30.5000"))
        + line(210, step(20, "4.0e-02"))  # lost: killed before it was saved
    )
    second.write_text(
        line(1000, "Resuming training from epoch: 0, iter: 10.")
        + line(1000, START)
        + line(1030, "Start training from epoch: 0, iter: 10")
        + line(1090, step(20, "3.0e-02"))
        + line(1150, "End of training. Time consumed: 0:02:00")
        + line(1150, "Save the latest model.")
        + line(1200, VALIDATION.format("Set5", "31.0000"))
    )
    history = read_logs([first, second])
    # 1.5 minutes to the validation of iteration 10, then 1 minute, then another.
    assert history.curve() == [
        [10, 1.0, 0.05, 30.5],
        [20, 2.5, 0.03, None],
        [30, 3.5, None, 31.0],  # the last iteration is not logged, but told
    ]
    assert history.total_minutes == 3.5
    assert history.finished and history.iteration == 30
    before = read_logs([first])
    assert not before.finished
    assert before.iteration == 20 and before.total_minutes == 2.5


def test_psnr_is_that_of_the_first_validation_set(tmp_path: Path):
    log = tmp_path / "train.log"
    log.write_text(
        line(0, "Start training from epoch: 0, iter: 0")
        + line(6, step(5, "1.0e-01"))
        + line(9, VALIDATION.format("Set5", "30.0000"))
        + line(9, VALIDATION.format("Set14", "25.0000"))
    )
    assert read_logs([log]).psnr == {5: 30.0}


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_line_cut_off_by_a_kill_is_not_read(tmp_path: Path, cut: int):
    log = tmp_path / "train.log"
    whole = line(0, "Start training from epoch: 0, iter: 0") + line(6, step(5, "1.2345e-01"))
    log.write_text(whole + line(9, step(6, "1.2345e-01"))[: -1 - cut])
    assert read_logs([log]).loss == {5: 0.12345}


def test_no_logs_are_an_empty_history():
    history = read_logs([])
    assert history.curve() == [] and history.iteration == 0 and not history.finished
