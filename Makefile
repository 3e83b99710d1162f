# The ways into this repository. Each installs what it needs first (tests/setup.sh).

.PHONY: setup build demo test soak fuzz bench fmt lint

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

# What `make test` does a little of, at length: crashes of daemons and computes, masked imports of made-up databases, and the simulations' seeds.
# ROUNDS and SEEDS say how long, SEED where it begins.
soak: setup
	OFFSHOOT_ROUNDS=$(or $(ROUNDS),100) OFFSHOOT_SEED=$(or $(SEED),1) tests/run.sh --profile soak -E 'binary(crashes) + (binary(masking) & test(properties::))'
	OFFSHOOT_SEEDS=$(or $(SEEDS),20000) tests/run.sh --profile soak --release --lib -E 'test(pageserver::tests) + test(simulation) + test(histories)'

# The readers of every format on disk and in the store, from their corpus on. SECONDS says how long each, TARGETS which.
fuzz: setup
	@tests/fuzz.sh $(or $(SECONDS),60) $(TARGETS)

# Figures with their baselines, as Markdown. ARGS="--short" for a small one.
bench: setup
	cargo bench --locked --bench branches -- $(ARGS)

fmt:
	cargo fmt

lint:
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
