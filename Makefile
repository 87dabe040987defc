# meshd: what to type. `make demo` shows it, `make test` tests it, `make lab` lets you play.

# A job that a machine starts by itself may have no HOME, and root's PATH may lack what root needs; Go's own folder comes last.
export PATH := $(PATH):/usr/sbin:/sbin:/usr/local/go/bin
ifndef HOME
export HOME := $(shell getent passwd $$(id -u) | cut -d: -f6)
endif

# A socket's path has room for 107 characters, and tests make some in their temporary directories.
ifneq ($(shell [ "$$(printf %s "$$TMPDIR" | wc -c)" -gt 30 ] && echo long),)
export TMPDIR := /tmp
endif

GO          ?= go
VERSION     ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOBUILD     := CGO_ENABLED=0 $(GO) build -trimpath -ldflags "-s -w -X main.version=$(VERSION)"

.DEFAULT_GOAL := build
.NOTPARALLEL: # tests need the processors, whatever -j says
.PHONY: fuzz build demo test test-vm fast lint unit race scenarios sim bench-scale bench-agents bench-lb lab lab-docker lab-down deps install clean demo-docker scenarios-docker bench-docker soak-docker

build: ## the binaries, in bin/
	$(GOBUILD) -o bin/ ./cmd/meshd ./cmd/meshd-cni

demo: deps build ## a mesh of three hosts on this machine, shown working, and cleaned up
	$(GOBUILD) -o bin/ ./test/demo ./test/demo/web
	bin/demo bin/meshd bin/web

demo-docker: deps build ## the same with a Docker Engine on each host: containers, compose, replacement under load
	$(GOBUILD) -o bin/ ./test/demo ./test/demo/web
	bin/demo -docker bin/meshd bin/web

test: deps lint fast race scenarios scenarios-docker ## everything
	@echo "meshd: all tests passed"

fast: ## what needs no lab: pure parts and kernel parts in throw-away namespaces
	$(GO) test -count=1 $$($(GO) list ./... | grep -v /test)

race: ## the same under the race detector
	CGO_ENABLED=1 $(GO) test -race -short -count=1 $$($(GO) list ./... | grep -v '/test\|/internal/policy')

scenarios: build ## whole hosts: real agents in a lab
	$(GO) test -count=1 -timeout 60m $$($(GO) list ./test/... | grep -v -e /test/vm -e /test/docker)

scenarios-docker: ## three Docker Engines in a lab, after the others: they need both processors
	$(GO) test -count=1 -timeout 40m ./test/docker/

soak-docker: deps bin/compose-v2 ## two hundred containers that begin with a look-up; the compose example up and down, ten times, by Compose 1 and 2; networks used at once; a hundred containers on one engine
	$(GO) test -count=1 -timeout 20m -run 'TestFirstAct|TestCompose|TestHurry|TestManyContainers' -v ./test/docker/ -docker.first 100 -docker.hurry 30 -docker.many 100 -compose.rounds 10 -compose.v2 $(CURDIR)/bin/compose-v2

COMPOSE := github.com/docker/compose/v2@v2.40.3
bin/compose-v2: ## Docker Compose 2 as its authors build it; minutes the first time
	dir=$$($(GO) mod download -json $(COMPOSE) | sed -n 's/.*"Dir": "\(.*\)",/\1/p') && CGO_ENABLED=0 $(GO) build -C "$$dir" -trimpath -o $(CURDIR)/bin/compose-v2 ./cmd

BENCH ?= 50
bench-docker: deps ## how fast containers are reachable, and names found: the figures of docs/benchmarks.md
	$(GO) test -count=1 -timeout 20m -run TestBench -v ./test/docker/ -docker.bench $(BENCH)

test-vm: build ## three virtual machines with the kernel's WireGuard; wants two idle processors
	@scripts/deps vm
	$(GO) test -count=1 -timeout 10m ./test/vm/

FUZZTIME ?= 60s
fuzz: ## every decoder of what comes from elsewhere, FUZZTIME each
	scripts/fuzz $(FUZZTIME)

SEED  ?= 1
SEEDS ?= 2000
sim: ## schedules of trouble for simulated meshes: make sim SEED=1 SEEDS=2000; what fails is shrunk
	$(GO) test -count=1 -timeout 60m -run TestSchedules -v ./test/sim -sim.seed $(SEED) -sim.seeds $(SEEDS)

SIZES ?= 10 100 300 1000
bench-scale: ## meshes of 10 to 1,000 simulated hosts: tables and picture of docs/scale.md; some 10 minutes of a processor
	@mkdir -p bin
	for size in $(SIZES); do $(GO) test -count=1 -timeout 20m -run TestScale -v ./test/scale -sizes $$size -results "$(CURDIR)/bin/scale.json" -docs "$(CURDIR)/docs" || exit 1; done

AGENTS ?= 20
bench-agents: build ## a lab of 20 hosts with real agents: what changes, joins and idling cost
	$(GO) test -count=1 -timeout 20m -run TestManyAgents -v ./test/many -agents $(AGENTS) -binary "$(CURDIR)/bin/meshd"

bench-lb: deps ## virtual IPs and published ports, beside going there directly, Docker, HAProxy and nginx: docs/load-balancing.md
	$(GO) test -count=1 -timeout 30m -v ./test/benchlb -lb

lint: ## formatting, vet, staticcheck
	@unformatted=$$(gofmt -l .); if [ -n "$$unformatted" ]; then echo "gofmt needed: $$unformatted"; exit 1; fi
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...

lab: deps build ## three joined hosts to play with
	$(GO) build -o bin/lab ./test/labctl
	$(GOBUILD) -o bin/ ./test/demo/web
	bin/lab up bin/meshd

lab-docker: deps build ## the same, with a Docker Engine on each host: bin/lab sh h1 docker run peer
	$(GO) build -o bin/lab ./test/labctl
	$(GOBUILD) -o bin/ ./test/labpeer
	bin/lab up bin/meshd bin/labpeer

lab-down: ## end the lab
	$(GO) build -o bin/lab ./test/labctl
	bin/lab down

deps: ## the programs that the targets above need, by apt
	@scripts/deps

install: build ## on this host: the binary, the unit, the example configuration
	scripts/install bin/meshd bin/meshd-cni

clean:
	rm -rf bin
