# Polder. "make help" says what there is. All targets work from a fresh clone with Go, make and, where they say so, root.
SHELL := /bin/bash
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
FUZZTIME ?= 30s
ROOT := $(filter 0,$(shell id -u))
BUILD := CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=$(VERSION)"
PROGRAMS := bin/polder-agent bin/polder bin/polder-cni
MODULES := . e2e tools

.DEFAULT_GOAL := all
.PHONY: all generate check check-format check-lint check-rules check-generated test fuzz bench lab e2e e2e-smoke stats image help deps $(PROGRAMS)

all: $(PROGRAMS) ## build bin/: the agent, the command line, the CNI plugin
$(PROGRAMS):
	$(BUILD) -o $@ ./cmd/$(@F)

deps: # what generate and check need besides Go; root installs what is missing
	@.ci/deps clang-14 llvm-14 clang-format-14 libbpf-dev linux-libc-dev

generate: deps ## compile bpf/ and generate its Go types, with clang 14
	go generate ./...

check: check-format check-lint check-rules check-generated ## format, vet, staticcheck, the rules of the tree, generated files are current
check-format: deps
	@echo "== gofmt"; out=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$out" ] || { echo "$$out: run gofmt -w"; exit 1; }
	@echo "== clang-format"; clang-format-14 --dry-run -Werror bpf/*
check-lint:
	@go build -C tools -o ../bin/tools/ honnef.co/go/tools/cmd/staticcheck
	@red=; for m in $(MODULES); do cd $(CURDIR)/$$m; echo "== go vet $$m"; go vet ./... || red=1; \
		echo "== staticcheck $$m"; $(CURDIR)/bin/tools/staticcheck ./... || red=1; done; [ -z "$$red" ]
check-rules:
	@echo "== rules of the tree"; go test -count=1 .
	@echo "== sizes"; go run -C tools ./sizes -check ..
check-generated: deps
	@echo "== generated files are current"; go generate ./... && git diff --exit-code --stat -- '*_bpfel.go' '*_bpfel.o'

test: ## run all tests; as root, those that need a kernel of their own, too
	$(if $(ROOT),POLDER_ROOT_TESTS=1) go test -timeout 30m $(TESTFLAGS) ./...
	@set -e; for m in $(filter-out .,$(MODULES)); do (cd $$m && go test -timeout 30m $(TESTFLAGS) ./...); done

fuzz: ## run every fuzz target for FUZZTIME (30s)
	@set -e; grep -rl --include='*_test.go' '^func Fuzz' cmd internal lab | while read -r f; do \
		for t in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$$f"); do \
			echo "== $$t"; go test -run '^$$' -fuzz "^$$t\$$" -fuzztime $(FUZZTIME) "./$$(dirname "$$f")"; done; done

bench: all ## measure against the baselines, and write docs/benchmarks.md (root)
	go run ./bench $(BENCHFLAGS)

lab: all ## start a cluster on this machine, check every law with packets, leave it running (root)
	bin/polder lab down
	bin/polder lab demo $(LABFLAGS)

image: all ## write the container image dist/polder.tar, without Docker
	go run ./deploy/image -o dist/polder.tar $(PROGRAMS)

e2e: image ## a real Kubernetes and the upstream suite: SUITE= FOCUS= SKIP= PROCS= NODES= FAMILY= PROXY= POLICIES= (root)
	cd e2e && go run .

e2e-smoke: image ## the same with a handful of fast tests (root)
	cd e2e && go run . smoke

stats: all ## sizes: packages, functions, files, programs
	@go run -C tools ./sizes .. && echo && ls -l --block-size=KiB $(PROGRAMS) | awk '{ printf "%9s  %s\n", $$5, $$9 }'

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
