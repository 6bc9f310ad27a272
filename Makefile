# Run make help for a list of targets.

PREFIX     ?= /usr/local
DESTDIR    ?=
BINDIR     ?= $(PREFIX)/bin
LIBEXECDIR ?= $(PREFIX)/lib/microvm
UNITDIR    ?= $(PREFIX)/lib/systemd/system
MANDIR     ?= $(PREFIX)/share/man/man1
BASHDIR    ?= $(PREFIX)/share/bash-completion/completions
ZSHDIR     ?= $(PREFIX)/share/zsh/site-functions
FISHDIR    ?= $(PREFIX)/share/fish/vendor_completions.d
VERSION    ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)

COMMANDS := microvm install-microvm
HELPERS  := $(filter-out $(COMMANDS),$(notdir $(wildcard cmd/*)))
PAYLOAD  := build/payload
GO       ?= go
# Packages whose tests run in the test hosts: end-to-end tests in a container, unit
# tests that need programs and privileges of root in another container, and tests that
# need their own kernel in a VM.
TESTS_e2e   := test/e2e
TESTS_units := internal/account internal/cli internal/control internal/kernel internal/netif internal/process internal/programs internal/runner internal/safepath internal/start internal/statedir internal/stop internal/term internal/virtiofsd internal/virtiofsd/seccomp internal/vm test/need
TESTS_vm    := test/e2e internal/kvm internal/mounts internal/netif internal/start internal/stop internal/vfio
HOSTTESTS   := $(sort $(TESTS_e2e) $(TESTS_units) $(TESTS_vm))
ASSETS      := $(PAYLOAD)/usr/lib/microvm-test
HOST        := build/test-host
SUITE       := /usr/lib/microvm-test/suite
DEMO        := /usr/lib/microvm-test/demo
# Debian's golang downloads a newer toolchain only with this setting.
export GOTOOLCHAIN ?= auto
export CGO_ENABLED = 0

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## build the programs into build/bin
	@mkdir -p build/bin
	$(GO) build -trimpath -ldflags '-s -w -X main.version=$(VERSION) -X main.libexecDir=$(LIBEXECDIR) -X main.binDir=$(BINDIR)' -o build/bin ./cmd/...

.PHONY: man
man: build ## write the manual pages and the shells' completions into build/
	@rm -rf build/man build/completions && mkdir -p build/completions
	build/bin/microvm man build/man
	@for shell in bash zsh fish; do build/bin/microvm completion $$shell > build/completions/$$shell || exit 1; done

.PHONY: install
install: man ## install programs, units, man pages and completions (PREFIX=, DESTDIR=)
	install -d '$(DESTDIR)$(BINDIR)' '$(DESTDIR)$(LIBEXECDIR)' '$(DESTDIR)$(UNITDIR)'
	install -m 755 $(addprefix build/bin/,$(COMMANDS)) '$(DESTDIR)$(BINDIR)'
	install -m 755 $(addprefix build/bin/,$(HELPERS)) '$(DESTDIR)$(LIBEXECDIR)'
	for unit in systemd/*.service systemd/*.target; do \
	  sed 's|@LIBEXECDIR@|$(LIBEXECDIR)|g' "$$unit" > '$(DESTDIR)$(UNITDIR)'/"$${unit##*/}" || exit 1; \
	  chmod 644 '$(DESTDIR)$(UNITDIR)'/"$${unit##*/}" || exit 1; \
	done
	install -d '$(DESTDIR)$(UNITDIR)/multi-user.target.wants'
	ln -sfn ../microvms.target '$(DESTDIR)$(UNITDIR)/multi-user.target.wants/microvms.target'
	install -D -m 644 systemd/microvm.sysusers.conf '$(DESTDIR)$(PREFIX)/lib/sysusers.d/microvm.conf'
	install -D -m 644 systemd/microvm.tmpfiles.conf '$(DESTDIR)$(PREFIX)/lib/tmpfiles.d/microvm.conf'
	install -D -m 644 systemd/microvm.modules-load.conf '$(DESTDIR)$(PREFIX)/lib/modules-load.d/microvm.conf'
	install -D -m 644 systemd/60-microvm.rules '$(DESTDIR)$(PREFIX)/lib/udev/rules.d/60-microvm.rules'
	install -D -m 644 -t '$(DESTDIR)$(MANDIR)' build/man/*.1
	install -D -m 644 build/completions/bash '$(DESTDIR)$(BASHDIR)/microvm'
	install -D -m 644 build/completions/zsh '$(DESTDIR)$(ZSHDIR)/_microvm'
	install -D -m 644 build/completions/fish '$(DESTDIR)$(FISHDIR)/microvm.fish'
	@if [ -z '$(DESTDIR)' ]; then systemd-sysusers && systemd-tmpfiles --create && systemctl daemon-reload && '$(BINDIR)/install-microvm' --relink; fi

.PHONY: uninstall
uninstall: ## remove the installed files; VMs and their state are kept
	rm -f $(addprefix '$(DESTDIR)$(BINDIR)'/,$(COMMANDS)) $(addprefix '$(DESTDIR)$(LIBEXECDIR)'/,$(HELPERS))
	rm -f $(addprefix '$(DESTDIR)$(UNITDIR)'/,$(notdir $(wildcard systemd/*.service systemd/*.target)))
	rm -f '$(DESTDIR)$(UNITDIR)/multi-user.target.wants/microvms.target'
	rmdir '$(DESTDIR)$(UNITDIR)/multi-user.target.wants' 2>/dev/null || true
	rm -f '$(DESTDIR)$(PREFIX)/lib/sysusers.d/microvm.conf' '$(DESTDIR)$(PREFIX)/lib/tmpfiles.d/microvm.conf'
	rm -f '$(DESTDIR)$(PREFIX)/lib/modules-load.d/microvm.conf' '$(DESTDIR)$(PREFIX)/lib/udev/rules.d/60-microvm.rules'
	rm -f '$(DESTDIR)$(MANDIR)'/microvm.1 '$(DESTDIR)$(MANDIR)'/microvm-*.1
	rm -f '$(DESTDIR)$(BASHDIR)/microvm' '$(DESTDIR)$(ZSHDIR)/_microvm' '$(DESTDIR)$(FISHDIR)/microvm.fish'
	rmdir '$(DESTDIR)$(LIBEXECDIR)' 2>/dev/null || test ! -d '$(DESTDIR)$(LIBEXECDIR)'
	@if [ -z '$(DESTDIR)' ]; then systemctl daemon-reload; fi

.PHONY: go-version
go-version: # fail if Go is too old to download a newer toolchain
	@test/scripts/go-version '$(GO)'

.PHONY: packages
packages: go-version # install the packages that the tests need (Debian and derivatives)
	@test/scripts/packages

.PHONY: $(HOST)
$(HOST): # build the program that creates and boots the test hosts
	@$(GO) build -o $(HOST) ./test/host

.PHONY: payload
payload: $(HOST) # build the files that are copied over a test host's root
	@rm -rf $(PAYLOAD)
	@$(MAKE) --no-print-directory -s install DESTDIR=$(PAYLOAD) PREFIX=/usr
	@install -D -m 644 -t $(ASSETS)/examples examples/*.json
	@install -D -m 644 -t $(ASSETS)/nixos test/nix/golden/hosts.json
	@mkdir -p $(ASSETS)/src $(ASSETS)/lists
	@git ls-files -coz --exclude-standard | xargs -0 cp --parents -t $(ASSETS)/src
	@printf '%s\n' $(TESTS_e2e) > $(ASSETS)/lists/e2e
	@printf '%s\n' $(TESTS_units) > $(ASSETS)/lists/units
	@printf '%s\n' $(TESTS_vm) > $(ASSETS)/lists/vm
	@for p in $(HOSTTESTS); do $(GO) test -c -o $(ASSETS)/$${p##*/}.test ./$$p || exit 1; done
	@$(GO) build -o $(ASSETS)/nixstandin ./test/nixstandin
	@install -m 755 test/scripts/suite $(PAYLOAD)$(SUITE)
	@install -m 755 test/scripts/demo $(PAYLOAD)$(DEMO)
	@if [ -n "$$MICROVM_TEST_HYPERVISORS" ]; then \
	  install -D -t $(ASSETS)/hypervisors/bin "$$MICROVM_TEST_HYPERVISORS"/*; fi

# What a new machine has to make once. With -j it is made beside the payload.
.PHONY: root guest
root: packages $(HOST) # make the Debian root of the test hosts
	@$(HOST) root >/dev/null
guest: packages $(HOST) # build the Debian guest that the VM host boots
	@$(HOST) guest

.PHONY: assets
assets: payload root # build the payload with the test guest
	@$(HOST) assets $(PAYLOAD)

# The stages run in parallel, as each of them mostly waits: for the network, a guest or
# a timeout. The longest one comes first.
STAGES := test-vm test-container test-units lint test-unit

.PHONY: test
test: packages ## run lint, the unit tests and the tests in test hosts (root)
	@rm -rf build/test-logs
	@$(MAKE) --no-print-directory -k -j $(words $(STAGES)) $(STAGES); status=$$?; \
	test/scripts/times; test/scripts/skips || status=1; \
	grep -hE '^(ok|FAIL|PASS)' build/test-logs/*; exit $$status

.PHONY: test-unit
test-unit: packages ## run the unit tests
	@test/scripts/go-test unit nice sh -c '$(GO) vet ./... && $(GO) test -v -timeout 50m ./...'

.PHONY: test-container
test-container: packages assets ## run the end-to-end tests in a container with systemd (root)
	@test/scripts/go-test container $(HOST) container $(PAYLOAD) $(SUITE) e2e $(TESTFLAGS)

.PHONY: test-units
test-units: packages assets ## run the unit tests that need root, in another container (root)
	@test/scripts/go-test units $(HOST) container $(PAYLOAD) $(SUITE) units $(TESTFLAGS)

.PHONY: test-vm
test-vm: packages assets guest ## run the tests that need their own kernel, in a VM (root)
	@test/scripts/go-test vm $(HOST) vm $(PAYLOAD) $(SUITE) vm $(TESTFLAGS)

.PHONY: test-nixos
test-nixos: packages $(HOST) ## test switches of a NixOS host (root; NIXOS=, MICROVM_NIX=checkouts)
	@mkdir -p build && $(GO) build -o build/test-nixos ./test/nixos
	@build/test-nixos -nixos '$(NIXOS)' -microvm-nix '$(MICROVM_NIX)' -cases '$(CASES)' -ng '$(STC_NG)' -run '$(RUN)' $(HOST)

.PHONY: soak
soak: packages assets ## repeat tests for rare faults hundreds of times (root; 10 minutes)
	@test/scripts/go-test soak $(HOST) container $(PAYLOAD) /usr/bin/env MICROVM_TEST_SOAK=1 $(SUITE) e2e -test.run 'Many|Anywhere|AnyMoment' $(TESTFLAGS)

.PHONY: lint
lint: go-version ## run golangci-lint and gofmt
	@test/scripts/go-test lint nice test/scripts/lint '$(GO)'

.PHONY: test-fresh
test-fresh: go-version ## run make test on new Debian 13 and 12 (root; FRESH=13, TARGET=test-unit)
	$(GO) run ./tools/fresh -target '$(or $(TARGET),test)' $(or $(FRESH),13 12)

.PHONY: demo
demo: packages assets ## start, show, ping and stop a VM in a temporary container (root)
	@$(HOST) container $(PAYLOAD) $(DEMO)

.PHONY: picture
picture: packages assets # draw the demo for the README (root)
	$(HOST) container $(PAYLOAD) $(DEMO) | $(GO) run ./tools/picture > docs/demo.svg.new
	mv docs/demo.svg.new docs/demo.svg

.PHONY: bench
bench: assets ## run the benchmarks and print ratios (root, C compiler; BENCH=shares)
	for c in tools/bench/c/*.c; do cc -O2 -static -o $(PAYLOAD)/usr/lib/microvm-test/$$(basename $$c .c) $$c || exit 1; done
	$(GO) build -o $(PAYLOAD)/usr/lib/microvm-tools/bench ./tools/bench
	$(HOST) container $(PAYLOAD) /usr/lib/microvm-tools/bench $(BENCH)

.PHONY: module
module: # rename the Go module, once the project has a home (MODULE=host/path)
	@test -n '$(MODULE)' || { echo 'make: hint: make module MODULE=host/path' >&2; exit 2; }
	old=$$($(GO) list -m) && git grep -lz "\"$$old/" -- '*.go' | xargs -0 sed -i "s|\"$$old/|\"$(MODULE)/|"
	$(GO) mod edit -module '$(MODULE)'
	$(GO) -C tools/lint mod edit -module '$(MODULE)/tools/lint'
	gofmt -w cmd internal test tools

.PHONY: clean
clean: ## remove build/
	rm -rf build
