# make demo, make test, make test-slow, make lint: each sets itself up on a fresh machine.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALLED := $(VENV)/.installed
KERNELS := $(wildcard esc_arch/fast/kernels/*.cpp esc_arch/fast/kernels/*.hpp esc_arch/fast/kernels/*.inc)

# Threads of PyTorch that wait for each other give their core away. Spinning, which is the
# default, makes training ten times slower when another process wants one of two cores.
export OMP_WAIT_POLICY := PASSIVE

# What each step of the demo leaves behind, in the order of the steps.
DEMO_PHOTOS := datasets/demo/photos/photos.json
DEMO_DATA := datasets/demo/test/prepared.jsonl
DEMO_WEIGHTS := experiments/ESC_demo_x2/models/net_g_latest.pth
DEMO_TESTED := results/ESC_demo_x2/.tested
DEMO_REPORT := results/demo/results.json
DEMO_TRAIN_OPT := options/demo/train_ESC_x2.yml
DEMO_TEST_OPT := options/demo/test_ESC_x2.yml

.PHONY: help install demo options test test-slow lint clean clean-demo
.DELETE_ON_ERROR:

help:
	@echo "make demo   install into $(VENV), train and test a small ESC on real photographs"
	@echo "make test   install into $(VENV), run the tests but the slow ones: 8 minutes on 2 cores"
	@echo "make test-slow   run the slow tests: trainings, jobs of processes, compilers, exports"
	@echo "make options   write options/*.yml, options/schema.json and docs/options.md again"
	@echo "make lint   check style, format and types"
	@echo "make clean  remove $(VENV) and what the demo wrote (make clean-demo: only that)"

install: $(INSTALLED)

# torch goes first and basicsr is built against it: an isolated build of basicsr
# would fetch a second torch of several GB.
$(INSTALLED): setup.py constraints.txt $(KERNELS)
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 10) <= v <= (3, 12) else "Python 3.10 to 3.12 is needed, this is %d.%d: call make PYTHON=python3.11" % v)'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -q -c constraints.txt torch numpy cython setuptools wheel
	$(PIP) install -q -c constraints.txt --no-build-isolation basicsr torchvision
	$(PIP) install -q -c constraints.txt --no-build-isolation -e '.[demo,test]'
	@touch $@

demo: $(DEMO_REPORT)
	@cat results/demo/results.md
	@echo "The pictures are results/demo/comparison.png and curves.png."

$(DEMO_PHOTOS): demo/extract_photos.py | $(INSTALLED)
	$(BIN)/python demo/extract_photos.py

# Sub-images keep the reading of a training patch cheap: a whole photo would have to be
# decoded for each.
$(DEMO_DATA): $(DEMO_PHOTOS) | $(INSTALLED)
	$(BIN)/basicsr data prepare datasets/demo/photos/train --dest datasets/demo/train \
		--scales 2 --sub-image 128 --step 64 --lmdb
	$(BIN)/basicsr data prepare datasets/demo/photos/test --dest datasets/demo/test --scales 2
	@touch $@

# An interrupted run goes on from its last state. States older than the data or the
# options belong to another run, which BasicSR then sets aside as *_archived_*.
$(DEMO_WEIGHTS): $(DEMO_DATA) $(DEMO_TRAIN_OPT) | $(INSTALLED)
	@find experiments -path '*/ESC_demo_x2/training_states/*' -type f \
		\( ! -newer $(DEMO_DATA) -o ! -newer $(DEMO_TRAIN_OPT) \) -delete
	$(BIN)/basicsr train -opt $(DEMO_TRAIN_OPT) --auto_resume

$(DEMO_TESTED): $(DEMO_WEIGHTS) $(DEMO_TEST_OPT) | $(INSTALLED)
	rm -rf results/ESC_demo_x2
	$(BIN)/basicsr test -opt $(DEMO_TEST_OPT)
	@touch $@

$(DEMO_REPORT): $(DEMO_TESTED) demo/report.py | $(INSTALLED)
	$(BIN)/python demo/report.py

# What is generated from the package and committed: the recipes, their schema, the reference.
options: | $(INSTALLED)
	$(BIN)/basicsr options new --all options --overwrite
	$(BIN)/basicsr options schema > options/schema.json
	$(BIN)/basicsr options reference > docs/options.md

test: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 -m slow

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean: clean-demo
	rm -rf $(VENV) build esc_arch/fast/kernels/_kernels*.so

# experiments/demo stays: it holds committed results of one run, which the README shows.
clean-demo:
	rm -rf datasets/demo results/ESC_demo_x2 results/demo
	rm -rf experiments/ESC_demo_x2 experiments/ESC_demo_x2_archived_*
