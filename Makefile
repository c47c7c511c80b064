# Each target is a plain Python command or two (README, "Contributing"); make only sees to .venv first.
PYTHON := .venv/bin/python

.PHONY: demo test quality

demo: .venv/installed
	$(PYTHON) demo/run_demo.py --output_dir outputs/demo --overwrite

test: .venv/installed
	$(PYTHON) -m pytest

quality: .venv/installed
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -c "from importlinter.cli import lint_imports_command as check; check()"

# Made again whenever the requirements change. A half-finished install leaves no mark and is finished next time.
.venv/installed: requirements.txt requirements-dev.txt
	python3 -m venv .venv
	$(PYTHON) -m pip install --quiet -r requirements-dev.txt
	touch .venv/installed
