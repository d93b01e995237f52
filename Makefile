# Two commands to begin with: `make demo` and `make test`. Each installs what is missing first.

CARGO ?= cargo
PREFIX ?= /usr/local
DESTDIR ?=
export PREFIX DESTDIR

.PHONY: all build demo test torture planted simulate soak bench bench-peers instructions datasets install uninstall docs lint fuzz profile clean help

all: build

help:
	@sed -n 's/^## //p' Makefile

## make build         the daemon and the benchmarks, optimised
build:
	@scripts/setup build
	$(CARGO) build --release --locked

## make demo          the whole appliance on this machine: a live stream, a hot swap, a kill, a recovery
demo:
	@scripts/setup build
	$(CARGO) build --release --locked --bin millstream
	target/release/millstream demo $(DEMO)

## make test          all tests, against a real Kafka broker too
test:
	@scripts/setup test
	$(CARGO) test --release --locked
	MILLSTREAM_TEST_CLIENT=librdkafka $(CARGO) test --release --locked --test kafka_daemon
	$(CARGO) test --release --locked --features faults --test torture

## make torture       kills the daemon at every step, for as long as you like: SEED=, KILLS=, SECONDS_MAX=; ROUND= one round again, FROM= from that round on;
##                    CLUSTER=1: while leaders move and brokers of three come and go
torture:
	@scripts/setup test
	MILLSTREAM_TORTURE_CLUSTER=$(CLUSTER) MILLSTREAM_TORTURE_FROM=$(FROM) \
	MILLSTREAM_TORTURE_SEED=$(or $(SEED),$(shell date +%s)) MILLSTREAM_TORTURE_ROUND=$(ROUND) \
	MILLSTREAM_TORTURE_KILLS=$(or $(KILLS),$(if $(SECONDS_MAX)$(ROUND),,1000)) MILLSTREAM_TORTURE_SECONDS=$(SECONDS_MAX) \
	$(CARGO) test --release --locked --features faults --test torture -- --nocapture

## make planted       a table of mistakes planted in the daemon, and which suite catches each
planted:
	@scripts/setup test
	$(CARGO) test --release --locked --features faults --test planted -- --nocapture

## make simulate      whole daemons under a made-up broker, disk and clock, by seeds: SEEDS=100000 FROM=0; SEED=123 tells one again
simulate:
	MILLSTREAM_SIM_SEEDS=$(or $(SEEDS),100000) MILLSTREAM_SIM_FROM=$(or $(FROM),0) $(if $(SEED),MILLSTREAM_SIM_SEED=$(SEED)) \
	$(CARGO) test --release --locked --test simulation seeds -- --nocapture

## make soak          gigabytes through the daemon, exactly once, its memory watched: GB=24
soak:
	@scripts/setup test
	MILLSTREAM_SOAK_GB=$(or $(GB),24) $(CARGO) test --release --locked --test soak -- --nocapture

## make bench         the benchmarks; NAMES="socket-json latency" picks, BENCH="--smoke" is quick; a full run is kept, with
##                    its page, in bench/runs
bench: build
	target/release/millstream-bench $(NAMES) $(BENCH) $(if $(findstring --smoke,$(BENCH)),,--keep)

## make bench-peers   sets up in .cache/peers what the benchmarks stand beside: Vowpal Wabbit, River, onnxruntime, …
bench-peers:
	@scripts/setup peers

## make instructions  instructions of the kernels and of the road, held to within 2 % of bench/baseline; UPDATE=1: a new one
instructions:
	@scripts/setup instructions
	$(CARGO) build --release --locked
	target/release/millstream-bench instructions $(if $(UPDATE),--update)

## make profile       NAME=socket-json: a flame graph of a benchmark, target/profile/NAME.svg
profile: build
	@scripts/setup profile
	scripts/profile "$(NAME)" $(SECONDS)

## make datasets      generated streams as files, in datasets/generated
datasets: build
	target/release/millstream generate datasets --out datasets/generated

## make install       PREFIX, DESTDIR; uninstall takes back what install put there
# (under sudo: what is built already, so that root needs no toolchain and leaves no files of its own here)
install:
	@if [ -n "$$SUDO_USER" ] && [ -x target/release/millstream ]; then :; else $(MAKE) build; fi
	scripts/install.sh install

uninstall:
	scripts/install.sh uninstall

## make docs          rewrites what is generated from the code
docs:
	UPDATE_DOCS=1 $(CARGO) test --release --locked --test docs_are_current

## make lint          format, lints, documentation
lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --release --locked --all-targets -- -D warnings
	$(CARGO) clippy --release --locked --features faults --test torture --test planted -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --release --locked --no-deps

## make fuzz          TARGET=json_rows SECONDS=600: a fuzzer of fuzz/README.md, guided by coverage (nightly toolchain)
fuzz:
	@scripts/fuzz "$(TARGET)" "$(or $(SECONDS),600)"

clean:
	$(CARGO) clean
