# The ways into this repository. Each installs what it needs first (tests/setup.sh).

.PHONY: setup build demo test bench fmt lint

setup:
	@tests/setup.sh

build:
	@tests/setup.sh demo
	cargo build --release --locked

# A walk through the product on a database of its own; stays up on a terminal.
demo: build
	@tests/demo/run.sh

# ARGS goes to `cargo nextest run`, for instance: make test ARGS=isolation
test: setup
	@tests/run.sh $(ARGS)

# Figures with their baselines, as Markdown. ARGS="--short" for a small one.
bench: setup
	cargo bench --locked --bench branches -- $(ARGS)

fmt:
	cargo fmt

lint:
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
