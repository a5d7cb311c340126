# make up     the whole product on this machine: PORT=8000 DATA=.data
# make test   the whole suite, without GPU, network or accounts
# make check  format, lint, types and the import rule
# make faults  kills, freezes, lost and doubled webhooks at full size, as a table; about half an hour
# make lifecycle  10,000 orders of events in the life of jobs, about an hour
# make done   is a change done? check, migrations and schema, storage, pipeline, page, changelog
# make exactly-once  1,000 requests of OpenAI's client through a network that loses 30 % of the answers
# make fuzz   made-up requests over the whole OpenAPI document, for FUZZ_SECONDS=600 a caller
# make soak  RATE=5 jobs a second for SOAK_MINUTES=30, a gateway killed every KILL_EVERY=120 s: what grows?
# make bench  the engine beside bare diffusers, what the gateway adds to a job, polls beside bare FastAPI,
#             creates, 2,000 event streams, what row-level security costs; about ten minutes

PORT ?= 8000
DATA ?= .data
PYTHON ?= python3
VENV ?= .venv
FUZZ_SECONDS ?= 600
SOAK_MINUTES ?= 30
RATE ?= 5
KILL_EVERY ?= 120
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DONE := $(wildcard $(addprefix tests/,gateway/test_migrations.py gateway/test_schema.py gateway/test_storage.py \
  gateway/test_supabase_storage.py gateway/test_jobs.py test_main_job.py test_up.py studio))

.PHONY: up install test faults lifecycle check done exactly-once soak bench lock clean

up: $(INSTALLED)
	@exec $(BIN)/tenkaigen up --data "$(DATA)" --port "$(PORT)"

install: $(INSTALLED)

$(INSTALLED): requirements.lock pyproject.toml tests/openai/oldest.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed; PYTHON=/path/to/python3.11 names one."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing pinned packages into $(VENV) (a few minutes the first time) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade \
	  --target $(VENV)/openai-oldest -r tests/openai/oldest.txt \
	  || echo "The oldest OpenAI client could not be fetched: its tests are skipped, all else works."
	@touch $@

test: $(INSTALLED)
	$(BIN)/python -m pytest

faults: $(INSTALLED)
	$(BIN)/python -m scripts.faults

lifecycle: $(INSTALLED)
	LIFECYCLE_RUNS=10000 $(BIN)/python -m pytest -q -s tests/gateway/test_lifecycle_machine.py

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_architecture.py tests/test_docs.py

done: check
	$(BIN)/python -m pytest -q $(DONE)
	$(BIN)/python -m scripts.check_changelog

exactly-once: $(INSTALLED)
	EXACTLY_ONCE_REQUESTS=1000 $(BIN)/python -m pytest -q -rP tests/openai/test_exactly_once.py

fuzz: $(INSTALLED)
	FUZZ_SECONDS=$(FUZZ_SECONDS) $(BIN)/python -m pytest tests/gateway/test_openapi_fuzz.py

soak: $(INSTALLED)
	$(BIN)/python -m scripts.soak --minutes $(SOAK_MINUTES) --rate $(RATE) --kill-every $(KILL_EVERY)

bench: $(INSTALLED) $(VENV)/peers
	$(BIN)/python -m scripts.bench_engine
	$(BIN)/python -m scripts.bench_gateway
	$(BIN)/python -m scripts.bench_http
	$(BIN)/python -m scripts.bench_access

$(VENV)/peers: scripts/peers.txt $(INSTALLED)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $@ -r $< \
	  || echo "The servers that the bench stands beside could not be fetched: they are left out."

lock: $(INSTALLED)
	{ echo '# Everything that is installed, pinned. Written by `make lock`; torch comes in the build your platform gets.'; \
	  $(BIN)/python -m pip freeze --all --exclude-editable | grep -v '^pip==' \
	  | sed "s/+cpu//; s/^uvloop==.*/&; sys_platform != 'win32'/"; } > requirements.lock

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
