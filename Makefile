# Two commands do all the set-up on a fresh machine with Python 3.11 or 3.12, pip and make:
#   make quickstart    trains on the embedded gluon jets, samples, compares
#   make quickstart-halos    the same for halo catalogues
#   make test          runs the test suite
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --prefer-binary

.PHONY: quickstart quickstart-halos halos-data gluon30-data jets-data test minimum audit slow spiral lint notebooks docs bench quality jets-quality halos-quality fuzz stress four-ways schema clean memory

# The installed environments are files, so that they are made once and again when what they need changes.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	@echo "installing pcdiff and its dependencies into $(VENV) (about 2.5 GB, a few minutes)"
	$(INSTALL) --upgrade "pip>=25.1"
	$(INSTALL) --editable .
	@touch $@

# azula, which samplers are compared with, asks for packages that only its plugins need.
$(VENV)/installed-dev: $(VENV)/installed
	$(INSTALL) --group dev --editable ".[pythia,export,halos,abacus,dask]"
	$(INSTALL) --no-deps azula
	@touch $@

quickstart: $(VENV)/installed
	rm -rf runs/quickstart report synthetic.root
	$(BIN)/pcdiff train configs/quickstart.yaml
	$(BIN)/pcdiff sample runs/quickstart -n 10000 --seed 1 -o synthetic.root
	$(BIN)/pcdiff evaluate datasets/jets/gluon30_test.hdf5 synthetic.root -o report
	@echo
	@echo "synthetic events    synthetic.root"
	@echo "report              report/index.html"
	@echo "run                 runs/quickstart"
	@echo "tracking store      mlflow.db (look at it with: $(BIN)/pcdiff ui)"

# What the halos need besides: halotools, which opens the catalogue that is made.
$(VENV)/installed-halos: $(VENV)/installed
	$(INSTALL) --editable ".[halos]"
	@touch $@

FIDUCIAL = omega_m=0.3175 --set sigma_8=0.834
quickstart-halos: $(VENV)/installed-halos
	rm -rf runs/halos_quick report-halos synthetic-halos.hdf5 synthetic-box.hdf5
	$(BIN)/pcdiff train configs/halos_quick.yaml
	$(BIN)/pcdiff sample runs/halos_quick -n 60 --seed 1 --set $(FIDUCIAL) -o synthetic-halos.hdf5
	$(BIN)/pcdiff evaluate datasets/halos_pm/fiducial_test.hdf5 synthetic-halos.hdf5 -o report-halos
	$(BIN)/pcdiff sample runs/halos_quick -n 1 --seed 2 --set $(FIDUCIAL) -o synthetic-box.hdf5 --format halotools
	$(BIN)/python -c "from halotools.sim_manager import CachedHaloCatalog as Catalog; \
	print(len(Catalog(fname='$(CURDIR)/synthetic-box.hdf5').halo_table), 'halos opened by halotools')"
	@echo
	@echo "synthetic boxes     synthetic-halos.hdf5"
	@echo "one for halotools   synthetic-box.hdf5"
	@echo "report              report-halos/index.html"
	@echo "run                 runs/halos_quick"

# What configs/halos.yaml trains on and is compared with: 3,600 boxes, of which 200 are of one universe.
HALOS = $(foreach part,lhc_train lhc_train_2 lhc_validation lhc_test fiducial,data/halos_$(part).hdf5)
halos-data: $(HALOS)

data/halos_lhc_train.hdf5: BOXES = -n 1600 --seed 41
data/halos_lhc_train_2.hdf5: BOXES = -n 1600 --seed 46
data/halos_lhc_validation.hdf5: BOXES = -n 60 --seed 43
data/halos_lhc_test.hdf5: BOXES = -n 140 --seed 44
data/halos_fiducial.hdf5: BOXES = -n 200 --seed 42 --omega-m 0.3175 --sigma-8 0.834
$(HALOS): data/halos_%.hdf5: | $(VENV)/installed-halos
	$(BIN)/pcdiff data make halos_pm $(BOXES) -o $@

# What configs/gluon30_teacher.yaml trains on and is compared with. The seeds are not those of the embedded jets, so no jet is in
# both. Only absent files are made: the order-only prerequisite (|) keeps a new installation from making all again.
gluon30-data: data/gluon30_train.hdf5 data/gluon30_validation.hdf5 data/gluon30_test.hdf5

data/gluon30_train.hdf5: JETS = -n 300000 --seed 21
data/gluon30_validation.hdf5: JETS = -n 50000 --seed 22
data/gluon30_test.hdf5: JETS = -n 100000 --seed 23
data/gluon30_%.hdf5: | $(VENV)/installed-dev
	$(BIN)/pcdiff data make jets --process g $(JETS) -o $@

# What configs/jets30.yaml and jets150.yaml train on and are compared with: five classes, up to 150 constituents.
JETS150 = $(foreach type,g q t w z,$(foreach part,train validation test,data/jets150_$(type)_$(part).hdf5))
jets-data: $(JETS150)

data/jets150_%_train.hdf5: JETS = -n 60000 --seed 31
data/jets150_%_test.hdf5: JETS = -n 20000 --seed 32
data/jets150_%_validation.hdf5: JETS = -n 2000 --seed 33
$(JETS150): data/jets150_%.hdf5: | $(VENV)/installed-dev
	$(BIN)/pcdiff data make jets --process $(firstword $(subst _, ,$*)) $(JETS) --constituents 150 -o $@

# Side by side; each process begins with a row of tests of its own, so that what they share is made once, and takes over from others what they have left.
test: $(VENV)/installed-dev
	$(BIN)/python -m pytest -m "not slow" --numprocesses auto --maxprocesses 4 --dist worksteal

# The oldest versions that pyproject.toml allows, without extras: reading and writing, observables, nets, training, tracking, report.
MINIMUM = $(VENV)-minimum
OLDEST = $(MINIMUM)/bin/python -m pip install --quiet --disable-pip-version-check --prefer-binary
$(MINIMUM)/installed: pyproject.toml constraints-minimum.txt
	$(PYTHON) -m venv $(MINIMUM)
	$(OLDEST) --upgrade "pip>=25.1"
	$(OLDEST) --constraint constraints-minimum.txt --editable .
	$(OLDEST) --constraint constraints.txt pytest pytest-timeout hypothesis
	@touch $@

# That old releases use what newer ones of their own dependencies deprecate is no fault of these bounds.
minimum: $(MINIMUM)/installed
	$(MINIMUM)/bin/python -m pytest -W ignore::DeprecationWarning -m "not slow" --ignore tests/io/test_abacus.py \
		--deselect tests/io/test_halotools.py::test_halotools_opens_what_pcdiff_writes \
		tests/io tests/test_clouds.py tests/physics/test_substructure.py tests/physics/test_flow_polynomials.py tests/nets/test_graph.py \
		tests/test_flows.py tests/test_training.py tests/tracking/test_tracking.py tests/evaluation/test_plots.py tests/evaluation/test_report.py

# All that is installed against the published advisories. It needs a network that reaches PyPI's service for them;
# --strict, for what could not be looked up would be taken for safe.
audit: $(VENV)/installed-dev
	$(INSTALL) --group audit
	$(BIN)/python -m pip freeze --exclude-editable > $(VENV)/audit.txt
	$(BIN)/pip-audit --strict --disable-pip --no-deps --requirement $(VENV)/audit.txt

slow: $(VENV)/installed-dev
	$(BIN)/python -m pytest -m slow
	$(BIN)/python benchmarks/spiral.py

spiral: $(VENV)/installed-dev
	$(BIN)/python benchmarks/spiral.py

lint: $(VENV)/installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/repo-review . --show errskip

# Executes notebooks/*.py and stores them with their output in docs/notebooks/, where the docs show them;
# one of them with, for example: make notebooks NAME=quickstart_jets
notebooks: $(VENV)/installed-dev
	$(BIN)/python docs/notebooks/execute.py $(NAME)

docs: $(VENV)/installed-dev
	$(BIN)/sphinx-build -W --keep-going -q docs docs/_build
	@echo "docs/_build/index.html"

bench: $(VENV)/installed-dev
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/scaling.py
	$(BIN)/python benchmarks/throughput.py gluon30 gluon30-fast
	$(BIN)/python benchmarks/observables.py
	$(BIN)/python benchmarks/export.py gluon30-fast gluon30 gluon30-teacher $(if $(wildcard data/gluon30_test.hdf5),--truth data/gluon30_test.hdf5)
	if [ -f data/gluon30_test.hdf5 ]; then \
		$(BIN)/python benchmarks/evaluations.py gluon30-teacher --students gluon30 gluon30-fast --truth data/gluon30_test.hdf5; fi

# Some GB of disk for a while: in --folder, which is the system's for temporary files.
memory: $(VENV)/installed-dev
	$(BIN)/python benchmarks/memory.py --update-readme

# Takes an hour and more; what is there already is kept, so the same command goes on. Needs the data of `make gluon30-data`.
quality: $(VENV)/installed-dev gluon30-data
	$(BIN)/pcdiff data fetch fpnd
	$(BIN)/python benchmarks/quality.py gluon30 gluon30-fast --truth data/gluon30_test.hdf5 --training data/gluon30_train.hdf5

# An hour on two cores; jets that were sampled already are kept. Needs the data of `make jets-data`.
jets-quality: $(VENV)/installed-dev jets-data
	$(BIN)/pcdiff data fetch fpnd
	$(BIN)/python benchmarks/classes.py jets30
	$(BIN)/python benchmarks/classes.py jets150 --jets 5000

# Some hours on two cores; posteriors that are known already are kept. Needs the data of `make halos-data`.
halos-quality: $(VENV)/installed-dev halos-data
	$(BIN)/python benchmarks/halos.py quality
	$(BIN)/python benchmarks/halos.py solvers
	$(BIN)/python benchmarks/halos.py response
	$(BIN)/python benchmarks/halos.py posterior --workers 2
	$(BIN)/python benchmarks/halos.py seam
	$(BIN)/python benchmarks/halos.py waves

# Broken files of every format against its reader, half an hour and more on one core; writes docs/reference/robustness.md.
fuzz: $(VENV)/installed-dev
	$(BIN)/python -m tests.stress.fuzz --update-readme

# 50 kills over the whole pipeline, about a quarter of an hour on one core.
stress: $(VENV)/installed-dev
	$(BIN)/python -m tests.stress.kills

# A million jets in four ways, about a quarter of an hour on two cores, and 3 GB of disk for a while.
four-ways: $(VENV)/installed-dev
	$(BIN)/python -m tests.stress.four_ways

schema: $(VENV)/installed
	$(BIN)/pcdiff config schema > configs/schema.json
	$(BIN)/pcdiff config schema --distill > configs/distill_schema.json

clean:
	rm -rf $(VENV) $(MINIMUM) runs report report-halos synthetic.root synthetic-halos.hdf5 synthetic-box.hdf5 mlflow.db mlartifacts
