"""What many tests share: a workspace with a tiny model, a tiny prepared dataset and a tiny recipe."""

import gc
import multiprocessing
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

# Before any library reads them: no test reaches for the Hub.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Hundreds of processes import this project: it is compiled once, even where Python is told to keep no bytecode.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

import filelock
import hypothesis
import pytest
from made_up_metrics import make_metrics  # noqa: F401  (a fixture)
from tiny_model import build_tiny_encoder, build_tiny_model

from radrecipes.data.dataset_folder import write_dataset_folder
from radrecipes.data.example import Example
from radrecipes.data.preparation import derive_label_set, prepare_rows
from radrecipes.publishing.cards.dataset_card import render_dataset_card

sys.dont_write_bytecode = False

# A shell that starts the tests in the background, or nohup, has these ignored, and every process would inherit that.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

# Property tests try the same examples every time, so that a change is judged by itself and not by luck; who looks for
# new counterexamples asks for them: pytest -m hypothesis --hypothesis-profile explore
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.register_profile("explore", max_examples=2000, deadline=None, print_blob=True)
hypothesis.settings.load_profile("repeatable")

# A test that opens closed data makes the whole process private.
_UMASK = os.umask(0o022)
os.umask(_UMASK)

REPOSITORY = Path(__file__).resolve().parents[1]
TINY_MODEL = "tiny/llama"
TINY_WRITER = "tiny/writer"
TINY_RECIPE = """\
# Tiny llama · LoRA · protocol labelling. Tests only, seconds. Global batch 8.
# accelerate launch --config_file accelerate_configs/cpu.yaml scripts/sft.py --config recipes/tiny/protocol_lora.yaml

task: protocol
dataset: data/tiny
max_length: 160
model_name_or_path: tiny/llama
model_revision: 0a1b2c3d4e5f60718293a4b5c6d7e8f901234567
dtype: float32
use_peft: true
lora_r: 4
lora_alpha: 8
lora_dropout: 0.0
lora_target_modules: all-linear
global_batch_size: 8
learning_rate: 1.0e-2
lr_scheduler_type: constant
num_train_epochs: 1
seed: 42
max_new_tokens: 12
"""
TINY_REPORT_RECIPE = (
    TINY_RECIPE.replace("protocol labelling", "report writing")
    .replace("protocol_lora", "report_lora")
    .replace("task: protocol\ndataset: data/tiny\n", "task: report\ndataset: data/tiny_reports\n")
    .replace("max_new_tokens: 12", "max_new_tokens: 80")
    .replace(TINY_MODEL, TINY_WRITER)
)
TINY_HEAD_RECIPE = (
    TINY_RECIPE.replace("LoRA ·", "LoRA, head ·")
    .replace("protocol_lora", "protocol_head")
    .replace("max_new_tokens: 12\n", "decode: head\nlabel_smoothing_factor: 0.05\n")
)


def trains_all_weights(recipe: str) -> str:
    """A tiny recipe with `use_peft: false`."""
    without_adapter = re.sub(r"^lora_.*\n", "", recipe, flags=re.MULTILINE).replace("LoRA", "full fine-tuning")
    return re.sub(
        r"protocol_(lora|head)", "protocol_full", without_adapter.replace("use_peft: true", "use_peft: false")
    )


# Request, findings and impression of the four kinds of tiny reports.
TINY_REPORTS = (
    ("Edema: positive", "There is edema.", "Edema."),
    ("Pneumothorax: positive", "There is a pneumothorax.", "Pneumothorax."),
    ("Edema: negative; Fracture: positive", "There is a fracture. No edema.", "Fracture."),
    ("Pneumothorax: negative; No Finding: positive", "No pneumothorax.", "Normal chest."),
)
_QUESTIONS = {
    "CT Dedicated Kidney": "r/o renal recurrence, s/p partial nephrectomy",
    "CT Head": "worst headache of life, r/o bleed, no contrast",
    "MR Brain": "c/f stroke, sudden onset weakness",
    "MR Knee": "chronic knee pain, r/o meniscal tear",
}
_HISTORIES = ("HTN", "DM2 and CKD", "no prior imaging", "smoker", "s/p fall", "on warfarin", "asthma", "none given")


def write_tiny_dataset(folder: Path, rows: int = 64) -> None:
    """A prepared dataset of `rows` notes, each a group of its own, over four labels."""
    examples = []
    for number in range(rows):
        label = list(_QUESTIONS)[number % len(_QUESTIONS)]
        age, sex = 20 + number, "MF"[number // 4 % 2]
        history = _HISTORIES[number // 8 % len(_HISTORIES)]
        note = f"{age} yo {sex}, {_QUESTIONS[label]}. History: {history}"
        examples.append(Example(f"order-{number}", f"patient-{number}", {"note": note}, label, f"tiny:{number + 1}"))
    label_set = derive_label_set(examples, "tiny", "tiny")
    splits, facts = prepare_rows(
        examples, input_column="note", target_column="label", label_set=label_set, near_duplicate_threshold=1.0
    )
    manifest = {
        "name": folder.name,
        "task": "protocol",
        "columns": ["id", "group", "note", "label"],
        "access": "synthetic",
        "license": "apache-2.0",
        "language": "en",
        "source": [],
        "generator": {"name": "tests", "seed": 0, "rows": rows},
        "label_set_derived": True,
        **facts,
    }
    write_dataset_folder(
        folder, splits=splits, manifest=manifest, card=render_dataset_card(manifest), label_set=label_set
    )


def write_tiny_reports(folder: Path, rows: int = 64, access: str = "synthetic") -> None:
    """A prepared dataset of `rows` studies, each of a patient of its own, over four kinds of reports."""
    studies = []
    for number in range(rows):
        observations, findings, impression = TINY_REPORTS[number % len(TINY_REPORTS)]
        names = ("id", "group", "observations", "findings", "impression")
        values = (f"study-{number}", f"patient-{number}", observations, findings, impression)
        studies.append(dict(zip(names, values, strict=True)))
    held_out = rows // 8
    splits = {
        "train": studies[2 * held_out :],
        "validation": studies[:held_out],
        "test": studies[held_out : 2 * held_out],
    }
    manifest = {
        "name": folder.name,
        "task": "report",
        "columns": list(studies[0]),
        "access": access,
        "license": "apache-2.0",
        "language": "en",
    }
    write_dataset_folder(folder, splits=splits, manifest=manifest, card="---\nlicense: apache-2.0\n---\n")


def slow_after(quick: int, cases: Iterable) -> list:
    """Parameters of a test of which only the first few belong to `make test`."""
    return [
        case
        if number < quick
        else pytest.param(*(case if isinstance(case, tuple | list) else (case,)), marks=pytest.mark.slow)
        for number, case in enumerate(cases)
    ]


def pytest_collection_finish():
    """Never look for garbage among libraries and tests; accelerate does so after every training."""
    gc.freeze()


@pytest.fixture(autouse=True)
def _umask():
    yield
    os.umask(_UMASK)


@pytest.fixture(scope="session")
def build_once(tmp_path_factory):
    """`build_once(name, build)` returns what `build(folder)` returned, called once for all processes that run these tests."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent

    def get(name: str, build: Callable[[Path], Any]) -> Any:
        result = root / f"{name}.pickle"
        with filelock.FileLock(root / f"{name}.lock"):
            if not result.exists():
                result.write_bytes(pickle.dumps(build(Path(tempfile.mkdtemp(prefix=f"{name}-", dir=root)))))
        return pickle.loads(result.read_bytes())

    return get


@pytest.fixture(scope="session")
def shared_workspace(build_once) -> Path:
    """A folder as a user's clone, made once: read it only; take `workspace` to write."""
    return build_once("workspace", build_workspace)


def build_workspace(folder: Path) -> Path:
    """Fill a folder with what a clone has: tiny models, tiny datasets, recipes, scripts."""
    build_tiny_model(folder / "models", TINY_MODEL)
    build_tiny_model(folder / "models", TINY_WRITER, hidden_size=64, initializer_range=0.3)
    # In place of the installed package, whose encoder takes minutes to fine-tune.
    build_tiny_encoder(folder / "models", "sentence-transformers/all-MiniLM-L6-v2")
    write_tiny_dataset(folder / "data" / "tiny")
    write_tiny_reports(folder / "data" / "tiny_reports")
    recipes = folder / "recipes" / "tiny"
    recipes.mkdir(parents=True)
    (recipes / "protocol_lora.yaml").write_text(TINY_RECIPE, encoding="utf-8")
    (recipes / "protocol_head.yaml").write_text(TINY_HEAD_RECIPE, encoding="utf-8")
    (recipes / "protocol_full.yaml").write_text(trains_all_weights(TINY_RECIPE), encoding="utf-8")
    (recipes / "protocol_full_head.yaml").write_text(trains_all_weights(TINY_HEAD_RECIPE), encoding="utf-8")
    (recipes / "report_lora.yaml").write_text(TINY_REPORT_RECIPE, encoding="utf-8")
    for name in ("scripts", "accelerate_configs"):
        (folder / name).symlink_to(REPOSITORY / name)
    return folder


@pytest.fixture
def workspace(shared_workspace, tmp_path, monkeypatch) -> Path:
    """A copy of the shared workspace for one test, which is also the working directory of that test."""
    folder = tmp_path / "workspace"
    shutil.copytree(shared_workspace, folder, symlinks=True)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub of its own, and an environment in which processes that the test starts know no other.

    The token in the environment is that of the user `radiology`, who may write. This process itself stays offline: its
    libraries have read their settings already.
    """
    # Imported here because few tests need a server.
    from hub_server import HubServer

    with HubServer(tmp_path / "hub") as server:
        server.add_user("radiology", "token-that-writes")
        for name in ("HF_HUB_CACHE", "HF_XET_CACHE", "HF_DATASETS_CACHE", "HF_HUB_DISABLE_XET", "HF_DATASETS_OFFLINE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf_home"))
        monkeypatch.setenv("HF_TOKEN", "token-that-writes")
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield server


@pytest.fixture
def hub_client(hub):
    """`hub_client(function, *arguments)` calls a function of a test module in a process whose libraries know only `hub`.

    The process starts with the first call and serves them all; environment variables have to be set before that.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield lambda function, *words, **options: pool.submit(function, *words, **options).result(timeout=120)


def run_script(workspace: Path, *words: str | Path, timeout: int = 300, **environment: str):
    """Run `python WORDS…` in a workspace as a user does, offline and on one thread.

    Args:
        workspace (`Path`):
            The working directory.
        words (`str` or `Path`):
            The script and its arguments: `"scripts/recipes.py", "list"`. Words that begin with `-m` work too.
        timeout (`int`, *optional*, defaults to 300):
            Seconds.
        environment (`str`):
            Environment variables to set in addition to the test's own.

    Returns:
        `subprocess.CompletedProcess`: with `returncode`, `stdout` and `stderr` as text.
    """
    return subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=workspace,
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **environment},
    )
