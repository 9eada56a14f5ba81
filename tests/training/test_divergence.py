"""What ends a run because a number is NaN or infinite, and what warns because a loss jumped."""

import json
import math
import statistics
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import TrainerControl, TrainerState

from radrecipes.errors import DivergedError
from radrecipes.training.divergence import DIVERGED_FILE, DivergenceGuard, trained_weights_are_finite
from radrecipes.training.trainer import RowsOfStep

IDS = [f"order-{number}" for number in range(20)]


def guard(folder, losses=(), on_spike=lambda line: None):
    rows = RowsOfStep()
    rows.batches = [torch.tensor([7, 3]), torch.tensor([11])]
    watched = DivergenceGuard(folder, rows, IDS, on_spike)
    watched.on_train_begin(None, TrainerState(log_history=[{"loss": loss} for loss in losses]), TrainerControl())
    return watched


def log(watched, step, loss, grad_norm=1.0, saves=False, model=None):
    """Let a guard see a logged step; returns what is logged."""
    control = TrainerControl(should_save=saves)
    logs = {"loss": loss, "grad_norm": grad_norm, "learning_rate": 1e-4}
    state = SimpleNamespace(global_step=step, is_world_process_zero=True)
    watched.on_log(None, state, control, logs=logs, model=model or nn.Linear(2, 2))
    return logs


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf, 1.0])
@pytest.mark.parametrize("grad_norm", [math.nan, math.inf, 1.0])
def test_what_is_not_a_number_ends_the_run_and_names_the_step_and_its_rows(loss, grad_norm, tmp_path):
    watched = guard(tmp_path)
    if loss == grad_norm == 1.0:
        log(watched, 7, loss, grad_norm)
        assert not list(tmp_path.iterdir())
        return
    with pytest.raises(DivergedError, match=rf"step 7 gave .*{DIVERGED_FILE}") as ended:
        log(watched, 7, loss, grad_norm)
    assert ended.value.exit_code == 4
    facts = json.loads((tmp_path / DIVERGED_FILE).read_text("utf-8"))
    assert facts["step"] == 7 and facts["rows"] == ["order-3", "order-7", "order-11"]
    # As text: strict JSON knows neither NaN nor Infinity.
    assert (float(facts["loss"]), float(facts["grad_norm"])) == pytest.approx((loss, grad_norm), nan_ok=True)


def broken(trained, value):
    model = nn.Linear(3, 3)
    model.weight.requires_grad_(trained)
    with torch.no_grad():
        model.weight[1, 2] = value
    return model


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_numbers_are_not_saved(value, tmp_path):
    watched = guard(tmp_path)
    log(watched, 4, 1.0, model=broken(True, value))  # nothing is saved after this step, and looking costs time
    log(watched, 5, 1.0, saves=True, model=broken(False, value))  # the base is not what is saved
    with pytest.raises(DivergedError, match="step 6 gave NaN or infinite weights"):
        log(watched, 6, 1.0, saves=True, model=broken(True, value))
    assert json.loads((tmp_path / DIVERGED_FILE).read_text("utf-8"))["step"] == 6


@pytest.mark.parametrize("event", ["on_save", "on_train_end"])
def test_weights_that_are_saved_without_a_step_are_checked(event, tmp_path):
    state = SimpleNamespace(global_step=6, is_world_process_zero=True)
    check = getattr(guard(tmp_path), event)
    check(None, state, TrainerControl(), model=broken(True, 3e38))
    with pytest.raises(DivergedError, match="step 6 gave NaN or infinite weights"):
        check(None, state, TrainerControl(), model=broken(True, math.inf))
    assert json.loads((tmp_path / DIVERGED_FILE).read_text("utf-8"))["rows"] == ["order-3", "order-7", "order-11"]


def test_finite_weights_are_finite_however_large():
    assert trained_weights_are_finite(broken(True, 3e38)) and not trained_weights_are_finite(broken(True, math.nan))


def test_what_is_logged_without_a_loss_is_none_of_its_business(tmp_path):
    control, state = TrainerControl(), SimpleNamespace(global_step=9, is_world_process_zero=True)
    guard(tmp_path).on_log(None, state, control, logs={"train_runtime": math.nan})


# Of three magnitudes, so that losses three times and a nat above the others come up.
LOSSES = st.lists(st.one_of(st.floats(0.01, 0.5), st.floats(0.5, 4), st.floats(1, 40)), min_size=1, max_size=90)


@given(LOSSES, st.integers(0, 60))
def test_a_jump_is_one_against_the_fifty_steps_before_also_over_a_resumption(losses, resumed_at):
    told = []
    watched = guard(None, losses[:resumed_at], told.append)
    spikes = []
    for step, loss in enumerate(losses[resumed_at:], resumed_at + 1):
        if log(watched, step, loss).get("loss_spike"):
            spikes.append(step)
    expected = []
    for step in range(resumed_at + 1, len(losses) + 1):
        before = losses[max(0, step - 51) : step - 1]
        if len(before) >= 10:
            usual = statistics.median(before)
            if losses[step - 1] > 3 * usual and losses[step - 1] - usual > 1:
                expected.append(step)
    assert spikes == expected
    assert len(told) == len(spikes)
    assert all(f"step {step} is" in line for step, line in zip(spikes, told, strict=True))


def test_only_the_first_process_tells_of_a_jump(tmp_path):
    told = []
    watched = guard(tmp_path, [1.0] * 10, told.append)
    logs = {"loss": 9.0}
    watched.on_log(None, SimpleNamespace(global_step=11, is_world_process_zero=False), TrainerControl(), logs=logs)
    assert logs["loss_spike"] and not told
