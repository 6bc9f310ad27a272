# make help says what there is.

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
# Packages whose tests run in the test hosts as well.
HOSTTESTS := test/e2e internal/netif internal/vfio internal/virtiofsd internal/statedir
export CGO_ENABLED = 0

.PHONY: help
help: ## say what there is
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
install: man ## install programs, units and their companions (PREFIX=, DESTDIR=)
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
uninstall: ## remove what install installed; VMs and their state stay
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

.PHONY: packages
packages: # what the test hosts need outside; only on Debian and its kin
	@test/packages

.PHONY: payload
payload: # what is laid over a test host's root
	rm -rf $(PAYLOAD)
	$(MAKE) --no-print-directory -s install DESTDIR=$(PAYLOAD) PREFIX=/usr
	install -D -m 644 -t $(PAYLOAD)/usr/lib/microvm-test/examples examples/*.json
	install -D -m 644 -t $(PAYLOAD)/usr/lib/microvm-test/nixos test/nix/golden/hosts.json
	@for p in $(HOSTTESTS); do \
	  ls $$p/*_test.go >/dev/null 2>&1 || continue; \
	  $(GO) test -c -o $(PAYLOAD)/usr/lib/microvm-test/$${p##*/}.test ./$$p || exit 1; \
	done
	$(GO) build -o $(PAYLOAD)/usr/lib/microvm-test/nixstandin ./test/nixstandin
	install -m 755 -t $(PAYLOAD)/usr/lib/microvm-test test/demo test/suite
	@if [ -n "$$MICROVM_TEST_HYPERVISORS" ]; then \
	  install -D -t $(PAYLOAD)/usr/lib/microvm-test/hypervisors/bin "$$MICROVM_TEST_HYPERVISORS"/*; fi

.PHONY: test
test: packages lint test-unit test-container test-vm ## lint, unit tests, then both test hosts
	@test/skips
	@grep -hE '^(ok|FAIL|PASS)' build/test-logs/*

.PHONY: test-unit
test-unit: ## unit tests
	@echo '==> unit tests'
	$(GO) vet ./...
	test/go-test unit $(GO) test -v ./...

.PHONY: test-container
test-container: payload ## end-to-end tests in a container with a real systemd (root)
	test/go-test container $(GO) run ./test/host container $(PAYLOAD) /usr/lib/microvm-test/suite $(TESTFLAGS)

.PHONY: test-vm
test-vm: payload ## end-to-end tests in a VM with a kernel of its own (root)
	test/go-test vm $(GO) run ./test/host vm $(PAYLOAD) /usr/lib/microvm-test/suite $(TESTFLAGS)

.PHONY: lint
lint: ## golangci-lint, gofmt
	@echo '==> lint (the first time builds the linter, a few minutes)'
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -d $$(git ls-files '*.go'); exit 1; }
	$(GO) -C tools build -o ../build/golangci-lint github.com/golangci/golangci-lint/v2/cmd/golangci-lint
	build/golangci-lint run ./...

.PHONY: demo
demo: packages payload ## start, show, ping and stop a VM in a throwaway container host (root)
	$(GO) run ./test/host container $(PAYLOAD) /usr/lib/microvm-test/demo

.PHONY: picture
picture: packages payload # of the demo, for the README (root)
	$(GO) run ./test/host container $(PAYLOAD) /usr/lib/microvm-test/demo | $(GO) run ./test/picture > docs/demo.svg.new
	mv docs/demo.svg.new docs/demo.svg

.PHONY: bench
bench: payload ## measure; prints ratios (root, and a C compiler; BENCH=shares for one part)
	for c in test/bench/c/*.c; do cc -O2 -static -o $(PAYLOAD)/usr/lib/microvm-test/$$(basename $$c .c) $$c || exit 1; done
	$(GO) build -o $(PAYLOAD)/usr/lib/microvm-test/bench ./test/bench
	$(GO) run ./test/host container $(PAYLOAD) /usr/lib/microvm-test/bench $(BENCH)

.PHONY: clean
clean: ## remove build/
	rm -rf build
